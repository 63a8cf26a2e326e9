"""Lesson 1.3: its checks with right, wrong and untouched answers, the parts of sources, and the processes it shows."""

import inspect
import random
import signal
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

import learnsgl.lessons.processes as lesson
from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.processes import (
    START_UP,
    another_death,
    autopsy,
    check_autopsy,
    check_start_up,
    excerpt,
    show_processes,
    start_up_moments,
)
from learnsgl.ps.find import Found
from learnsgl.ps.look import ProcessView, ServerView
from learnsgl.server.run_file import RunFacts
from learnsgl.trace.reader import Trace
from learnsgl.trace.show import to_json

TRACES = Path(__file__).parents[2] / "traces"
ORDER = ["resolved", "spawned", "running", "imported", "weights", "acknowledged", "taken", "serving"]


def recorded_events(name):
    return [to_json(entry) for entry in Trace.open(TRACES / f"{name}.trace.zip").events()]


@pytest.fixture(scope="module")
def starting():
    return recorded_events("engine_start")


@pytest.fixture(scope="module")
def killed():
    return recorded_events("worker_killed")


# ---------------------------------------------------------------- exercise 1


def test_the_right_order_is_right_as_a_list_or_as_words(starting):
    for answer in (ORDER, tuple(ORDER), " ".join(ORDER)):
        result = check_start_up(answer, starting)
        assert result.outcome is Outcome.RIGHT
    assert "resolved 0.00 s" in result.message


def test_the_same_order_is_right_in_every_recording_with_a_start(killed, events):
    assert check_start_up(ORDER, killed).outcome is Outcome.RIGHT
    assert check_start_up(ORDER, events).outcome is Outcome.RIGHT


def test_the_moments_are_those_that_the_reader_is_told_of(starting):
    assert set(start_up_moments(starting)) == set(START_UP) == set(ORDER)
    assert list(START_UP) != ORDER


def test_no_order_is_not_attempted(starting):
    assert check_start_up(..., starting).outcome is Outcome.NOT_ATTEMPTED


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (7, "a list of names is expected"),
        ([1, 2], "a list of names is expected"),
        ("spawned forked", "no moment called 'forked'"),
        (ORDER[:-1], "'serving' stands 0 times"),
        ([*ORDER, "taken"], "'taken' stands 2 times"),
        (list(START_UP), "'serving' comes too early"),
        (["weights", *(name for name in ORDER if name != "weights")], "'weights' comes too early"),
    ],
)
def test_a_wrong_order_gets_a_hint(answer, hint, starting):
    result = check_start_up(answer, starting)
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


def test_each_other_order_is_refused_and_its_hint_names_one_that_is_too_early(starting):
    shuffled = random.Random(3)
    for _ in range(50):
        order = shuffled.sample(ORDER, len(ORDER))
        if order == ORDER:
            continue
        message = check_start_up(order, starting).message
        early = message.split("'")[1]
        later = order[order.index(early) + 1 :]
        assert any(ORDER.index(name) < ORDER.index(early) for name in later)


# ---------------------------------------------------------------- exercise 2


def answer_with(**changes):
    """A reader's function that is right but for what is given: values, or functions of the events."""

    def function(events):
        right = autopsy(events)
        given = {name: value(events) if callable(value) else value for name, value in changes.items()}
        return right | given

    return function


def stub(events):
    (lost,) = [event for event in events if event["kind"] == "process.lost"]
    return {"process": lost["name"], "killed_by": ..., "last_event": ..., "num_unwritten": ...}


def test_the_autopsy_agrees_with_the_recording(killed):
    lost = next(event for event in killed if event["kind"] == "process.lost")
    numbers = [event["number"] for event in killed if event["kind"] == "msg.sent" and event["process"] == lost["name"]]
    received = [
        event["number"] for event in killed if event["kind"] == "msg.received" and event["sender"] == "detokenizer"
    ]
    facts = autopsy(killed)
    assert (facts["process"], facts["killed_by"]) == ("detokenizer", "SIGKILL")
    assert facts["last_event"] == Trace.open(TRACES / "worker_killed.trace.zip").process("detokenizer").num_events
    assert facts["num_unwritten"] == max(received) - max(numbers)


def test_a_right_autopsy_is_right_and_says_what_it_means(killed):
    result = check_autopsy(answer_with(), killed)
    assert result.outcome is Outcome.RIGHT
    assert "detokenizer was ended by SIGKILL" in result.message


def test_the_untouched_stub_is_not_attempted(killed):
    assert check_autopsy(stub, killed).outcome is Outcome.NOT_ATTEMPTED
    assert check_autopsy(..., killed).outcome is Outcome.NOT_ATTEMPTED


def lost_event(events):
    return next(event for event in events if event["kind"] == "process.lost")


def num_received(events):
    return sum(event["kind"] == "msg.received" and event["sender"] == "detokenizer" for event in events)


def num_to_it(events):
    return sum(event["kind"] == "msg.sent" and event["channel"] == "detokenizer" for event in events)


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (answer_with(killed_by=-9), "into its name"),
        (answer_with(killed_by=9), "into its name"),
        (answer_with(killed_by="SIGTERM"), "minus a signal's number"),
        (answer_with(last_event=lambda events: lost_event(events)["event"]), "the dead tell none"),
        (answer_with(last_event=lambda events: events[-1]), "which stands in its field `event`"),
        (answer_with(last_event=1), "whose `process` is the dead one"),
        (answer_with(num_unwritten=num_received), "wrote down itself"),
        (answer_with(num_unwritten=num_to_it), "messages to the process"),
        (answer_with(num_unwritten=-1), "-1 isn't it"),
        (answer_with(num_unwritten=...), "go on with num_unwritten"),
        (answer_with(killed_by=..., last_event=None), "go on with killed_by"),
        (answer_with(extra=1), "leave the form"),
        (lambda events: "SIGKILL", "leave the form"),
        (lambda events: events["lost"], "raised TypeError"),
    ],
)
def test_a_wrong_autopsy_gets_the_hint_that_fits(function, hint, killed):
    result = check_autopsy(function, killed)
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


@pytest.mark.parametrize("name", ["killed_by", "last_event", "num_unwritten"])
def test_a_copied_answer_is_not_enough(name, killed):
    result = check_autopsy(answer_with(**{name: autopsy(killed)[name]}), killed)
    assert result.outcome is Outcome.NOT_YET
    assert "not for another one" in result.message


def test_another_death_differs_in_all_that_is_asked(killed):
    here, there = autopsy(killed), autopsy(another_death(killed))
    assert all(here[name] != there[name] for name in here if name != "process")
    assert there["killed_by"] == signal.Signals.SIGTERM.name


def test_no_hint_gives_the_answer_away(killed):
    truth = autopsy(killed)
    wrong = [answer_with(killed_by=9), answer_with(last_event=1), answer_with(num_unwritten=num_received)]
    for function, name in zip(wrong, ("killed_by", "last_event", "num_unwritten"), strict=True):
        words = check_autopsy(function, killed).message.replace(";", " ").split()
        assert str(truth[name]) not in words


# ---------------------------------------------------------------- what the notebook shows


def test_a_part_of_a_source_is_shown_without_its_indentation():
    part = excerpt(show_processes, "if not found", "raise")
    assert part.splitlines()[0] == "if not found:"
    assert textwrap.indent(part, "    ") in inspect.getsource(show_processes)
    assert excerpt(show_processes, "view = ", "view = ") == "view = look_at(found[0])"


@pytest.mark.parametrize(("first", "last"), [("nowhere", "raise"), ("raise", "nowhere"), ("raise", "if not found")])
def test_a_source_that_has_changed_is_an_error(first, last):
    with pytest.raises(ValueError, match="show_processes has no lines"):
        excerpt(show_processes, first, last)


@pytest.fixture
def running(monkeypatch):
    """Two servers on this machine, as `learnsgl ps` sees them."""

    def found(port):
        return Found(
            Path(f"sockets-{port}"),
            RunFacts(started_s=0.0, is_ready=True, url=f"http://127.0.0.1:{port}", model="tiny", processes=()),
        )

    def view(one):
        return ServerView(
            url=one.facts.url, model="tiny", device="cpu", dtype="float32", health="ok", num_running=0, uptime_s=1.0,
            trace_folder="/somewhere/private", trace_bytes=1000, socket_folder=str(one.folder),
            processes=[ProcessView("api", "api", 1, is_alive=True, channels=["api"])],
        )  # fmt: skip

    monkeypatch.setattr(lesson, "find_servers", lambda: [found(1001), found(1002)])
    monkeypatch.setattr(lesson, "look_at", view)


def test_only_the_readers_own_server_is_shown_and_no_path_from_the_root(running):
    server = SimpleNamespace(url="http://127.0.0.1:1002", trace_folder=Path("scratch/run"))
    shown = show_processes(server)
    assert "127.0.0.1:1002" in shown
    assert "1001" not in shown
    assert "trace: scratch/run" in shown
    assert "private" not in shown
    assert "ipc api" in shown


def test_a_server_that_has_ended_is_said_to(running):
    with pytest.raises(ValueError, match="doesn't run"):
        show_processes(SimpleNamespace(url="http://127.0.0.1:1003", trace_folder=None))
