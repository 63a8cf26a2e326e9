"""Requests wait for their grammars in front of the scheduler: nobody else does, and no message overtakes its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from llguidance import LLTokenizer

from learnsgl.core import Grammar, GrammarKind, SamplingParams
from learnsgl.errors import RequestError
from learnsgl.message.types import AbortMsg, FlushCacheMsg, UserMsg
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.scheduler.grammar import MAX_GRAMMAR_BYTES, MAX_KEPT, MAX_KEPT_CHARS, Grammars, grammars_of_model
from learnsgl.scheduler.grammar_desk import GrammarDesk
from learnsgl.scheduler.io import SchedulerIO
from tests.fakes import EOS_ID, VOCAB_SIZE
from tests.scheduler.grammar_world import make_grammars

GRAMMAR = Grammar(GrammarKind.REGEX, "a+")


class SlowGrammars(Grammars):
    """Compiles when it is let."""

    def __init__(self) -> None:
        def make() -> LLTokenizer:
            assert self.may_compile.wait(10)
            return make_grammars()._loaded()

        super().__init__(make, VOCAB_SIZE, (EOS_ID,))
        self.may_compile = threading.Event()


@pytest.fixture
def desk() -> Iterator[GrammarDesk]:
    desk = GrammarDesk(SlowGrammars())
    yield desk
    let(desk)
    desk.close()


def let(desk: GrammarDesk) -> None:
    assert isinstance(desk.grammars, SlowGrammars)
    desk.grammars.may_compile.set()


def user(uid: int, grammar: Grammar | None = None) -> UserMsg:
    return UserMsg(uid, b"\1\0\0\0", SamplingParams(grammar=grammar))


def test_others_overtake_and_its_own_aborts_do_not(desk: GrammarDesk) -> None:
    held = [user(1, GRAMMAR), AbortMsg(1, 0), AbortMsg(1)]
    others = [user(2), FlushCacheMsg(7), AbortMsg(2)]
    assert desk.pass_through([held[0], others[0], held[1], others[1]]) == others[:2]
    assert desk.is_busy
    assert desk.pass_through([held[2], others[2]]) == others[2:]
    let(desk)
    desk.wait(None)
    assert desk.pass_through([user(3)]) == [user(3), *held]
    assert not desk.is_busy
    assert desk.pass_through([user(4, GRAMMAR)]) == [user(4, GRAMMAR)], "it is known now"


def test_a_grammar_that_cannot_be_used_passes_too_and_is_refused_behind_it(desk: GrammarDesk) -> None:
    bad = Grammar(GrammarKind.REGEX, "(")
    assert desk.pass_through([user(1, bad), user(2, bad)]) == []
    let(desk)
    desk.wait(None)
    assert desk.pass_through([]) == [user(1, bad), user(2, bad)]
    with pytest.raises(RequestError, match="unclosed group"):
        desk.grammars.compile(bad)


def test_closing_forgets_what_waits(desk: GrammarDesk) -> None:
    desk.pass_through([user(1, GRAMMAR), user(2, Grammar(GrammarKind.REGEX, "b"))])
    let(desk)
    desk.close()
    assert not desk.is_busy


class Arrivals(SimpleNamespace):
    """A mailbox that gives what was put into it, and lets the grammar be compiled when it was asked so often."""

    def receive(self, *, block: bool) -> list[Any]:
        self.asked.append(block)
        if len(self.asked) == 3:
            let(self.desk)
        return self.queue.pop(0) if self.queue else []

    def receive_last(self) -> list[Any]:
        let(self.desk)
        return self.queue.pop(0) if self.queue else []


def test_a_scheduler_without_work_waits_for_the_grammar_and_hears_what_comes_meanwhile(desk: GrammarDesk) -> None:
    mailbox = Arrivals(queue=[[user(1, GRAMMAR)], [user(2)]], asked=[], desk=desk, stopping=False)
    io = SchedulerIO(mailbox, SimpleNamespace(), desk)  # type: ignore[arg-type]
    assert io.receive(block=True) == [user(2)]
    assert io.receive(block=False) == []
    assert io.receive(block=True) == [user(1, GRAMMAR)]
    assert mailbox.asked[:3] == [True, False, False], "it only blocks while nothing is compiled"


def test_when_it_stops_nothing_is_left_waiting(desk: GrammarDesk) -> None:
    mailbox = Arrivals(queue=[[user(1, GRAMMAR)]], asked=[], desk=desk, stopping=True)
    io = SchedulerIO(mailbox, SimpleNamespace(), desk)  # type: ignore[arg-type]
    assert io.receive_last() == [user(1, GRAMMAR)]
    assert io.receive_last() == []


def test_the_latest_grammars_are_kept() -> None:
    grammars = make_grammars()
    first = Grammar(GrammarKind.REGEX, "first")
    compiled = grammars.compile(first)
    assert grammars.compile(first) is compiled
    for number in range(MAX_KEPT):
        grammars.compile(Grammar(GrammarKind.REGEX, f"x{number}"))
    assert not grammars.is_known(first)


@pytest.mark.parametrize(
    ("eos_ids", "text", "words"),
    [((), "{}", "no end-of-sequence token"), ((1,), None, "no tokenizer.json"), ((1,), "{}", "can't be used")],
)
def test_models_that_cannot_be_constrained(
    tmp_path: Any, eos_ids: tuple[int, ...], text: str | None, words: str
) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    info = ExecutorInfo("m", "fake", "none", 8, 1, 64, VOCAB_SIZE, eos_ids)
    for _ in range(2):
        with pytest.raises(RequestError, match=words) as raised:
            grammars_of_model(tmp_path, info).compile(GRAMMAR)
        assert raised.value.code == "unsupported"


def test_an_abort_in_line_takes_its_grammar_out_of_the_line(desk: GrammarDesk) -> None:
    other = Grammar(GrammarKind.REGEX, "b+")
    assert desk.pass_through([user(1, GRAMMAR), user(2, other), user(3, other)]) == []  # the first is being compiled
    assert desk.pass_through([AbortMsg(3, 0)]) == [], "one choice of perhaps several"
    ended, abort = desk.pass_through([AbortMsg(2)])
    assert ended == user(2), "the scheduler ends it, and needn't compile anything for that"
    assert abort == AbortMsg(2)
    assert desk.pass_through([AbortMsg(1)]) == [], "what has begun can't be stopped"
    let(desk)
    desk.wait(None)
    assert desk.pass_through([]) == [user(1, GRAMMAR), AbortMsg(1), user(3, other), AbortMsg(3, 0)]


def test_what_is_ready_is_still_known_when_the_scheduler_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = make_grammars()
    desk = GrammarDesk(grammars)
    long = [user(uid, Grammar(GrammarKind.REGEX, f"{uid}(" + "a" * 100_000 + ")?")) for uid in range(14)]
    short = [user(uid, Grammar(GrammarKind.REGEX, f"{uid}")) for uid in range(100, 100 + MAX_KEPT + 20)]
    left = len(long) + len(short)
    assert desk.pass_through([*long, *short]) == []
    while left:  # each time, the loop was busy for so long that all that was begun is done
        desk.wait(None)
        ready = desk.pass_through([])
        assert ready
        left -= len(ready)
        with monkeypatch.context() as patch:
            patch.setattr(grammars, "_compile", None)  # nothing is compiled in the loop
            for message in ready:
                assert isinstance(message, UserMsg)
                assert message.sampling.grammar is not None
                grammars.compile(message.sampling.grammar)
    assert not desk.is_busy
    desk.close()


def test_texts_that_are_kept_are_bounded_and_one_that_is_too_long_costs_the_others_nothing() -> None:
    grammars = make_grammars()
    kept = Grammar(GrammarKind.REGEX, "kept")
    grammars.compile(kept)
    too_long = Grammar(GrammarKind.REGEX, "a" * (MAX_KEPT_CHARS + 1))
    assert grammars.is_known(too_long), "nothing is left to do for it"
    with pytest.raises(RequestError, match=f"at most {MAX_GRAMMAR_BYTES}"):
        grammars.compile(too_long)
    assert grammars.is_known(kept)
    for number in range(12):
        grammars.compile(Grammar(GrammarKind.REGEX, f"{number}(" + "b" * 100_000 + ")?"))
    assert not grammars.is_known(kept)
