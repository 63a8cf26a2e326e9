"""`learnsgl trace show`: what it prints of a small recording, to the letter, and what `--at` understands."""

from __future__ import annotations

import argparse
import io
import json
import re
import threading
from pathlib import Path

import pytest

from learnsgl.config import Config, TraceConfig, TraceLevel, wants_no_color
from learnsgl.errors import OptionError
from learnsgl.replay.commands import CLEAR, default_state, show_command
from learnsgl.replay.moments import find_moment
from learnsgl.replay.page_map import page_lines
from learnsgl.replay.replay import Replay
from learnsgl.replay.show import show
from learnsgl.terminal import Style, styled
from learnsgl.trace import events as ev
from learnsgl.trace.commands import add_trace_command
from learnsgl.trace.manifest import create_run
from learnsgl.trace.recorder import open_recorder
from tests.replay.recorded import NAME, record, run
from tests.trace.story import UID, at_level, i4, i8, tell, write

SHOWN = """\
0.000000 s  after scheduler-0:18 (batch.collected); level full

processes
  api          silent  nothing is recorded after http.streamed  for 0.0 µs
  tokenizer-0  idle    after msg.sent                           for 0.1 µs
  scheduler-0  idle    after batch.collected                    for 0.0 µs
  detokenizer  idle    after msg.sent                           for 0.1 µs

device  step 2 is the last that was scheduled
  step 2  done, not collected  1 token: 0 prompt chunks, 1 decoding

queue of scheduler-0  1 waiting
  request  prompt  limit
       20      30     60

running  1 of 4 rows
  request  row  prompt  cached  computed  scheduled  output  limit  stage   progress
        7    0       3       0         3          4       1      5  decode  ████████████████░░░░  80%

pages  16 of 1 token
  ####
  # one request: 4   t the tree: 0   s both, or several: 0   . free: 12
  a sign is a page; pages 4 to 15 are free

tree  0 nodes, 0 locked, 0 pages

messages  1 on their way
  tokenizer-0 → scheduler #2  UserMsg  request 20  for 0.1 µs  never received
"""


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """A run with a request that waits, a message that is lost, and an API process that was cut off."""
    story = tell()
    place = next(n for n, event in enumerate(story[NAME]) if isinstance(event, ev.BatchCollected) and event.step == 2)
    story[NAME].insert(place, ev.ReqQueued(300, 20, 0, 2, 30, 60, None))
    story["tokenizer-0"].insert(-1, ev.MsgSent(240, "scheduler", 2, "UserMsg", i8(20), 80))
    story["api"] = [event for event in story["api"] if event.ns <= 340]
    story["api"].append(ev.HttpStreamed(340, i8(UID), i4(0), i8(340), i4(30)))
    return Replay.open(write(tmp_path, story))


def learnsgl(*words: str | Path) -> int:
    parser = argparse.ArgumentParser(prog="learnsgl")
    add_trace_command(parser.add_subparsers())
    args = parser.parse_args(["trace", *map(str, words)])
    code: int = args.run(args)
    return code


def test_to_the_letter(replay: Replay) -> None:
    state = replay.at(event=(NAME, 18))
    assert state.moment.kind == "batch.collected"
    text = show(state, width=120, color=False)
    assert text + "\n" == SHOWN


def test_in_colour_it_is_the_same_text(replay: Replay) -> None:
    state = replay.at(ns=345)
    colored = show(state, width=100, color=True)
    assert re.sub(r"\x1b\[\d*m", "", colored) == show(state, width=100, color=False)
    assert "\x1b[32mworking" in colored
    assert styled("", Style.RED, color=True) == ""


@pytest.mark.parametrize("width", [1, 10, 40])
def test_no_line_is_wider_than_the_terminal(replay: Replay, width: int) -> None:
    lines = show(replay.at(ns=300), width=width, color=False).splitlines()
    assert max(map(len, lines)) == width


def test_long_lists_are_cut(tmp_path: Path) -> None:
    story = tell()
    story[NAME][6:6] = [ev.ReqQueued(161, uid, 0, uid, 3, 5, None) for uid in range(100, 130)]
    text = show(Replay.open(write(tmp_path, story)).at(ns=400), width=100, color=False)
    assert "30 waiting" in text
    assert "and 20 more" in text
    assert "      109" in text
    assert "      110" not in text


def test_a_tree_is_listed_and_cut(tmp_path: Path) -> None:
    recorded = run()
    replay = Replay.open(record(tmp_path, recorded.events))
    widest = max((replay.at(step=step) for step in replay.steps), key=lambda state: len(state.tree or ()))
    text = show(widest, width=100, color=False)
    section = text.split("\ntree  ")[1].split("\n\n")[0].splitlines()
    num_nodes, num_locked = int(section[0].split()[0]), int(section[0].split()[2])
    assert num_nodes == len(widest.tree or ()) - 1 > 3
    assert num_locked == sum(node.lock > 0 for node in (widest.tree or {}).values())
    more = re.search(r"and (\d+) more node", text)
    shown = [line for line in section[1:] if "last used at" in line]
    assert len(shown) + (int(more[1]) if more else 0) == num_nodes
    depths = {len(line) - len(line.lstrip()) for line in shown}
    assert {2, 4} <= depths, "children are indented below their parents"


def test_many_pages_share_a_sign(tmp_path: Path) -> None:
    recorded = run(20)
    state = Replay.open(record(tmp_path, recorded.events)).at(step=15)
    text = show(state, width=8, color=False)
    assert re.search(r"\npages.*\n(?:  [#ts.]{1,6}\n){2,4}  #", text)
    num_drawn = 1 + max(page for page in range(48) if page not in (state.free_pages or ()))
    assert 24 < num_drawn <= 48, "more than four lines of six"
    lines = page_lines(state.schedulers[0], 6)
    assert lines[-1][0][0].startswith("a sign is 2 pages: what most of them are")
    assert sum(len(text) for line in lines[:-2] for text, _ in line) == -(-num_drawn // 2)


def test_level_steps_says_what_is_unknown(tmp_path: Path) -> None:
    folder = write(tmp_path, at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS)
    text = show(Replay.open(folder).at(step=2), width=100, color=False)
    assert "pages and tree\n  not recorded at level steps" in text
    assert "messages\n  not recorded at level steps" in text
    assert "1 of 4 rows" in text


def test_an_unknown_state_is_said(tmp_path: Path) -> None:
    story = tell()
    story[NAME][1] = ev.TraceBegin(6, "full", True)
    text = show(Replay.open(write(tmp_path, story)).at(ns=300), width=200, color=False)
    assert "scheduler-0\n  its state isn't known yet: the first events are missing, and no whole keyframe" in text


def test_what_a_recording_says_is_made_harmless(tmp_path: Path) -> None:
    story = tell()
    story[NAME][2:2] = [ev.ProcessPhase(16, "load\x1b]0;gotcha\x07", 8)]
    text = show(Replay.open(write(tmp_path, story)).at(ns=12), width=200, color=True)
    assert "load\ufffd]0;gotcha\ufffd" in text


# ---------------------------------------------------------------- --at


@pytest.mark.parametrize(
    ("text", "kind", "at"),
    [
        ("start", "process.started", 5),
        ("end", "process.ended", 700),
        ("0.000000275s", "sched.step", 280),
        ("275ns", None, None),
        ("0.275 us", "sched.step", 280),
        ("step 2", "sched.step", 280),
        ("step:1", "sched.step", 180),
        (" scheduler-0:7 ", "page.allocated", 175),
    ],
)
def test_at(tmp_path: Path, text: str, kind: str | None, at: int | None) -> None:
    replay = Replay.open(write(tmp_path, tell()))
    if kind is None:
        with pytest.raises(OptionError):
            find_moment(replay, text)
    else:
        state = replay.state(find_moment(replay, text))
        assert (state.moment.kind, state.moment.ns) == (kind, at)


@pytest.mark.parametrize(
    "text", ["", "12", "tomorrow", "step:x", "step:9", "scheduler-0:999", "1s", "-1s", "x:1", "nan"]
)
def test_at_names_what_there_is(tmp_path: Path, text: str) -> None:
    replay = Replay.open(write(tmp_path, tell()))
    ranges = (
        r"Give start, end, a time from 0s to 0.000001s, a step from step:1 to step:2, or an event from "
        r"api:1 to api:19, tokenizer-0:1 to tokenizer-0:6, scheduler-0:1 to scheduler-0:23, detokenizer:1 to"
    )
    with pytest.raises(OptionError, match=re.escape(f"--at {text!r}") + r".*\. " + ranges):
        find_moment(replay, text)


def test_the_default_is_where_there_is_something_to_see(tmp_path: Path, replay: Replay) -> None:
    state, why = default_state(replay)
    assert (state.moment.ns, why) == (570, "the end")
    ended, why = default_state(Replay.open(write(tmp_path / "ended", tell())))
    assert (ended.moment.kind, ended.moment.ns, why) == ("sched.step", 280, "step 2, the middle one of 2")
    story = tell()
    idle, why = default_state(Replay.open(write(tmp_path / "idle", {"api": story["api"]})))
    assert (idle.moment.ns, why) == (700, "the end")


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    folder = write(tmp_path, tell())
    assert learnsgl("show", folder, "--at", "step:2") == 0
    text = capsys.readouterr().out
    assert text == show(Replay.open(folder).at(step=2), width=90, color=False) + "\n"
    assert learnsgl("show", folder) == 0
    assert "shown: step 2, the middle one of 2. --at chooses another" in capsys.readouterr().out
    with pytest.raises(OptionError, match="leave --at out, or --follow"):
        learnsgl("show", folder, "--at", "end", "--follow")


def test_json_has_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, tell())
    assert learnsgl("show", folder, "--at", "step:2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["moment"]["event"] == 15
    (scheduler,) = said["schedulers"]
    (running,) = scheduler["running"]
    assert (running["uid"], running["stage"], running["pages"]) == (UID, "decode", [0, 1, 2, 3])
    assert scheduler["pages"]["refs"] == [1, 1, 1, 1, *[0] * 12]
    assert (scheduler["pages"]["free"], scheduler["queue"], said["messages"]) == (12, [], [])
    assert [process["status"] for process in said["processes"]] == ["idle"] * 4
    steps = write(tmp_path / "steps", at_level(tell(), TraceLevel.STEPS), TraceLevel.STEPS)
    assert learnsgl("show", steps, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["messages"], said["schedulers"][0]["tree"], said["schedulers"][0]["pages"]) == (None, None, None)
    story = tell()
    story[NAME][1] = ev.TraceBegin(6, "full", True)
    assert learnsgl("show", write(tmp_path / "late", story), "--json") == 0
    assert json.loads(capsys.readouterr().out)["schedulers"] == [{"name": NAME, "is_known": False}]


def test_follow_goes_on_until_the_end(tmp_path: Path) -> None:
    folder = create_run(tmp_path, Config().to_json(), ["learnsgl"])
    recorder = open_recorder(folder, TraceConfig(), "api", "api")
    out = io.StringIO()
    replay = Replay.open(folder)
    options = {"at": None, "follow": True, "as_json": True, "color": False}
    reader = threading.Thread(target=show_command, args=(replay, out), kwargs=options)
    reader.start()
    recorder.emit(ev.ProcessServing(recorder.now(), "localhost", 8000))
    recorder.close()
    reader.join(20)
    assert not reader.is_alive()
    numbers = [json.loads(line)["moment"]["event"] for line in out.getvalue().splitlines()]
    assert numbers == sorted(set(numbers)), "a state is printed when something has come"
    assert numbers[-1] == 4


def test_follow_clears_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    replay = Replay.open(write(tmp_path, tell()))
    assert show_command(replay, out, at=None, follow=True, as_json=False, color=True) == 0
    assert out.getvalue().startswith(f"{CLEAR}\x1b[1m0.000001 s")


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not wants_no_color()
    monkeypatch.setenv(name, value)
    assert wants_no_color()
