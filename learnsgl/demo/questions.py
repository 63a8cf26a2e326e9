"""The four questions of the demo, and why each is asked.

`run.py` sends them all at once. The texts are our own; what they say of lighthouses is common knowledge, and the
school is made up. They are chosen so that a model of 135 million parameters answers them sensibly.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One chat to send.

    Attributes:
        name: letter by which the demo's tables call it.
        purpose: what it is to show.
        user: the question.
        system: the system prompt, where there is one.
        max_tokens: most tokens of its answer.
        shown: what the terminal shows of it, where the question itself is too long.
    """

    name: str
    purpose: str
    user: str
    system: str | None = None
    max_tokens: int = 64
    shown: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat in OpenAI's form."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


TUTOR_RULES = """\
You are the geography tutor of the Harbour School, a small school in a town by the sea. Pupils between nine and \
twelve years old ask you about countries, cities, rivers, mountains and seas. Please keep to these rules.

Be right. If you know the answer, give it plainly. If you do not know it, say so; never guess a number, a name or a \
date, because a pupil may learn it by heart. Give lengths in kilometres and heights in metres.

Be short. One full sentence is the best answer to a question about a fact. A longer answer is allowed only when a \
pupil asks why something is so, and even then three sentences are enough. Do not repeat the question and do not add \
a list.

Be clear. Use everyday words. When a word is hard, such as delta, strait or plateau, explain it in passing. Write \
names as they are written in English, and use the name of today for a country whose name has changed.

Be kind. A pupil who is wrong is on the way to being right: say what is true, not how wrong the pupil was. Do not \
make jokes about a country or about the people who live there. If a pupil asks about a war or a border that people \
quarrel about, say that people see it differently and that the teacher will talk about it in class.

Be useful. When a pupil asks about a place, think of the globe in the corner of the classroom: name the continent or \
the ocean if it helps to find the place. When two places have the same name, say which of the two you mean."""

LONG_TEXT = """\
A lighthouse is a tower with a bright lamp at its top. It tells sailors at night where the land is, where the rocks \
are, and where the mouth of a harbour opens. By day the tower itself is the sign, which is why many lighthouses are \
painted in broad bands of red and white or black and white: against a green hill a white tower is easy to see, and \
against a pale cliff a striped one is.

The first lights for ships were open fires on hills. A fire on a tower can be seen from further away, because the \
surface of the sea is curved and a higher light looks over more of the curve. One of the best known towers of the \
ancient world stood at the harbour of Alexandria in Egypt. It was built about three centuries before the common era, \
it was more than a hundred metres high, and it guided ships for well over a thousand years, until earthquakes broke \
it.

Fire needs fuel, and fuel must be carried up the stairs. For a long time keepers burned wood, then coal, then \
candles, and then oil in lamps with a wick. Each step gave a steadier light with less smoke. A round wick, with air \
flowing both inside and outside the flame, was invented near the end of the eighteenth century and made lamps several \
times brighter. Later came gas and vapour burners, and at last electric bulbs, which need no trimming at all.

A lamp alone sends its light in every direction: up to the clouds, down to the ground, and back over the land, where \
nobody needs it. To help a ship, the light must be gathered into a beam. The first way was a curved mirror behind the \
flame. The better way was found by the French physicist Augustin Fresnel about two hundred years ago. A thick glass \
lens can bend light into a beam, but a lens as large as a lighthouse needs would weigh tons and would swallow much of \
the light in its own glass. Fresnel saw that only the curve of the surface bends the light, and not the thickness of \
the glass behind it. So he cut the lens into rings, like steps on a round stair, and left the useless inner glass \
out. Such a lens is thin and light, and it can be built as tall as a person from many separate prisms in a brass \
frame. It catches most of the light of the lamp and sends it out flat over the sea, so that it can be seen from more \
than thirty kilometres away.

There are many lighthouses along a coast, and a sailor must know which one is in sight. So each has its own rhythm. \
One flashes once every five seconds, the next shows two quick flashes and then a long pause, and a third shines \
without a break but turns red over a dangerous reef. The rhythm is called the character of the light, and it is \
printed on charts and in lists that every ship carries. To make the flashes, the lens turns around the lamp, and each \
of its faces sweeps one beam across the water like the spoke of a wheel. In the old towers the lens floated in a bath \
of mercury, so that a heavy glass of several tons could be turned with one finger, and a clockwork with a falling \
weight kept it moving all night. The keeper had to wind the clockwork every few hours, as one winds a tall clock.

The work of a keeper was quiet and strict. At dusk the lamp was lit, and through the night somebody had to watch it. \
In the morning the keeper polished the lens and the windows, trimmed the wicks, filled the oil and drew the curtains, \
because the same lens that sends light out also gathers the sunlight by day and could set the lamp on fire. There was \
a book in which the weather was noted, and the ships that passed, and how much oil was burned. Families lived in many \
lighthouses on the mainland, with a garden and a cow; on lonely rocks in the sea only men in teams of three served \
for weeks at a time, and in a winter storm the boat that should bring the next team and fresh food might not come for \
a month.

When there is fog, a light is of little use. Then sound must help. Bells, guns, whistles and horns have all been \
tried. The large horns worked with compressed air and could be heard several kilometres away, although fog plays \
tricks with sound and can swallow it near the tower and carry it far beyond. Each horn had its own rhythm too, so \
that sailors who could see nothing at all could still tell where they were.

Not every light stands on a tower of stone. Where the ground is soft sand or mud, iron legs with great screws at \
their ends were turned into the sea bed, and a house for the keeper was put on top of them, so that the waves could \
run through below. Where the water was too deep for any tower, a ship was anchored instead, painted red, with a lamp \
at the top of its mast. Its crew stayed at the same spot for months, in the worst water of the coast, while every \
other ship tried to keep away from it. Nearly all of these light ships have been replaced by steel platforms or by \
large buoys, and the few that are left lie in harbours as museums.

The colour of a light has a meaning as well. In a channel that leads into a harbour, red lights stand on one side and \
green lights on the other, so that a ship that keeps between them stays in deep water. Two white lights, one low in \
front and one high behind it, mark a line: as long as the captain sees them exactly one above the other, the ship is \
on the right course, and when the upper one moves to the left or to the right, the ship must turn the same way. A \
light with sectors goes a step further. It has panes of coloured glass, so that it looks white from the safe water, \
red from the dangerous side and green from the other. The captain needs no instrument to read it; a glance is enough, \
and it is the same for a tanker as for a small boat with a boy at the oars.

To build a tower on a rock that the waves cover twice a day is one of the hardest tasks in building. The men could \
work only for an hour or two at low water. The stones were cut on land, fitted together there to the width of a hair, \
taken apart, numbered and carried out by boat. Each stone was shaped so that it locked into its neighbours, like the \
pieces of a puzzle, above and below and on both sides, so that the sea could not pull a single one out. The tower was \
made wide at its foot and narrow at its waist, like the trunk of an oak, because an oak stands in the wind where a \
straight post would break.

Today nearly all lighthouses work by themselves. A sensor lights the lamp at dusk, a small motor turns the lens, and \
if the bulb fails a second one takes its place and a message is sent to an office far away. Many lamps now run on \
power from the sun, with batteries for the night. Ships find their way with satellites, and a small receiver shows \
their place to within a few metres. Yet the lights are kept. A receiver can fail, a signal can be disturbed, and a \
captain who comes home in the dark still likes to see with his own eyes that the light is where the screen says it \
is. And the old towers, which have stood in every storm for centuries, have become places that people love to visit: \
they climb the round stairs, step out on the gallery into the wind, and look at the sea as the keepers did."""

QUESTIONS = (
    Question("a", "streamed to the terminal", "What is the capital of France? Answer in one sentence."),
    Question(
        "b", "shares a system prompt with c", "Which river flows through Egypt? Answer in one sentence.", TUTOR_RULES
    ),
    Question(
        "c",
        "shares a system prompt with b",
        "What is the highest mountain on Earth? Answer in one sentence.",
        TUTOR_RULES,
    ),
    Question(
        "d",
        "too long for one step",
        f"{LONG_TEXT}\n\nWhat is the text above about? Answer in one sentence.",
        shown="(a text of 1,400 words on lighthouses) What is the text above about? Answer in one sentence.",
    ),
)
MIN_LONG_PROMPT_TOKENS = 1500
