"""The texts that the workloads send: written for this folder, the same in every run, and free to use.

`workloads.py` builds requests from them. What they say hardly matters; how long they are, and where two of them part,
is what the recordings are about.
"""

from __future__ import annotations

GUIDE = (
    "You are the guide of a small lighthouse museum on the coast. You answer the questions of visitors in plain words, "
    "and you keep to what a visitor can see: the lamp, the stairs, the log books and the boat in the yard. When you "
    "don't know something, you say so and name the person who does."
)
"""A system prompt that several requests share."""

CLERK = (
    "You read the log of a harbour and answer in one sentence. The log has an entry for each day: the wind, the ships "
    "that came and left, and what was loaded. Read all of it before you answer, and quote the day."
)

CAPITAL = "What is the capital of France? Answer in one sentence."

QUESTIONS = (
    "How many steps lead up to the lamp, and why are they so steep?",
    "What did the keepers write into the log books every night?",
    "Which colour did the light have, and how far out could it be seen from a ship?",
    "Why does a boat stand in the yard, and when was it last at sea?",
    "Write a short letter home from a keeper in his first winter.",
    "Name three things that a keeper did before sunset.",
    "Explain to a child why a lighthouse has a lens of many rings.",
    "What is the difference between a lighthouse and a lightship?",
)

_WINDS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
_SHIPS = ("the Heron", "the Linnet", "the Plover", "the Curlew", "the Avocet", "the Dunlin", "the Knot")
_GOODS = ("slate", "salt herring", "oak planks", "lamp oil", "barley", "rope and canvas", "window glass")


def log(first_day: int, num_days: int) -> str:
    """A harbour's log; each day takes about 28 tokens. Two logs share a prefix exactly when they begin on one day."""
    days = range(first_day, first_day + num_days)
    return " ".join(
        f"Day {day}. Wind from the {_WINDS[day * 5 % 8]}, {4 + day * 7 % 23} knots. {_SHIPS[day * 3 % 7].capitalize()} "
        f"came in and left with {2 + day * 11 % 37} tons of {_GOODS[day * 2 % 7]}."
        for day in days
    )
