"""Faults inside of a worker that still runs: a loop that is stuck, or spins. And what is left of a start that fails."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import cast

import httpx
import msgspec
import pytest
import zmq

from learnsgl.errors import ModelNotFoundError, OutOfMemoryError, StartupError, WorkerLostError
from learnsgl.message.codec import MAX_MESSAGE_BYTES, Envelope, encode_envelope, encode_messages
from learnsgl.message.types import AbortMsg, DetokenizeMsg, Message, UserReply
from learnsgl.replay import Replay
from learnsgl.scheduler.io import SchedulerIO
from learnsgl.scheduler.scheduler import Scheduler
from learnsgl.scheduler.worker import run_loop
from learnsgl.server.worker import SHOW_STACKS, record_failure
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.trace.recorder import MemoryRecorder
from learnsgl.trace.show import describe
from learnsgl.trace.verify import verify
from tests.server.conftest import Starter, check_trace
from tests.server.echo_executor import echo
from tests.server.running import RunningServer
from tests.server.test_life import FEW, Caller, check_lost, wait_running

QUICK = ("--worker-timeout-s", "30", "--step-timeout-s", "1.5")


@pytest.mark.parametrize("prompt", ["\x06", "\x05"], ids=["never returns", "spins"])
def test_an_engine_that_is_stuck_ends_every_request_and_the_server(start: Starter, prompt: str) -> None:
    server = start("--seed", "20", *FEW, *QUICK)
    waiting = Caller(server, 250)
    assert waiting.first_chunk.wait(20)
    sticking = Caller(server, 5, stream=False, prompt=prompt)
    for caller in (waiting, sticking):
        caller.join(20)
        assert caller.error is not None
        assert caller.error["code"] == "worker_lost"
        assert "scheduler-0" in caller.error["message"]
        assert "stuck, busy with one thing for 1.5 s" in caller.error["message"]
    assert sticking.status == 503
    check_lost(server, "scheduler-0")
    assert "in collect" in server.log, "the log shows where its threads were"


def test_a_step_within_the_limit_is_let_alone(start: Starter) -> None:
    server = start("--seed", "2500", *FEW, "--worker-timeout-s", "1.5", "--step-timeout-s", "6")
    answer = httpx.post(
        f"{server.url}/generate", json={"text": "AB", "sampling_params": {"max_new_tokens": 3}}, timeout=60
    )
    assert answer.json()["text"] == "ABA"  # 7.5 s of work in all, and no step of more than 2.5 s
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log


def failed_start(server: RunningServer) -> tuple[Trace, dict[str, str]]:
    """The recording of a start that failed, and what `learnsgl trace show` says that each process does in the end."""
    assert server.wait() == StartupError.exit_code, server.log
    assert server.left_behind() == []
    trace = Trace.open(server.trace_folder)
    verify(trace)
    end = Replay(trace).end()
    return trace, {process.name: process.doing for process in end.processes}


def failures(trace: Trace) -> dict[str, str]:
    """Errors by the process that recorded them."""
    return {
        entry.process: entry.event.error for entry in trace.events() if isinstance(entry.event, events.ProcessFailed)
    }


def lost(trace: Trace) -> list[tuple[str, int | None]]:
    return [(e.event.name, e.event.exit_code) for e in trace.events("api") if isinstance(e.event, events.ProcessLost)]


def test_a_start_without_memory_says_which_process_failed_and_why(start: Starter) -> None:
    trace, doing = failed_start(start("--num-pages", "1"))
    assert failures(trace) == {"scheduler-0": "OutOfMemoryError", "api": "OutOfMemoryError"}
    assert lost(trace) == [("scheduler-0", OutOfMemoryError.exit_code)]
    assert "OutOfMemoryError (one page is too little)" in doing["scheduler-0"]
    assert "OutOfMemoryError (one page is too little)" in doing["api"]
    phases = {e.process for e in trace.events() if isinstance(e.event, events.ProcessPhase)}
    assert set(trace.processes) <= phases, "what had been done by then isn't lost"


def test_a_start_in_which_a_process_dies_says_which(start: Starter) -> None:
    trace, doing = failed_start(start("--num-pages", "2"))
    assert failures(trace) == {"api": "StartupError"}
    assert lost(trace) == [("scheduler-0", 9)]
    assert doing["scheduler-0"] == "died with exit code 9"
    assert "scheduler-0 ended with exit code 9 while it started" in doing["api"]


def ready_so_far(server: RunningServer) -> set[str]:
    parts = list(server.trace_root.glob("*/api.1.trace"))  # the parent's, which is there a moment after its folder
    trace = Trace.open(parts[0].parent) if parts else None
    if trace is None or "api" not in trace.processes:
        return set()
    return {e.event.name for e in trace.events("api") if isinstance(e.event, events.ProcessReady)}


def test_workers_that_are_ready_end_in_order_when_another_one_fails(start: Starter) -> None:
    server = start("--num-pages", "3", wait_ready=False)  # the scheduler loads for ever
    deadline = time.monotonic() + 60
    while (ready := ready_so_far(server)) != {"tokenizer-0", "detokenizer"}:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.05)
    server.workers()["scheduler-0"].kill()
    trace, doing = failed_start(server)
    assert failures(trace) == {"api": "StartupError"}
    assert lost(trace) == [("scheduler-0", -signal.SIGKILL)]
    assert {doing[name] for name in ready} == {"has ended in order"}
    assert "scheduler-0 was ended by SIGKILL while it started" in doing["api"]


def test_a_model_that_is_not_there_is_in_the_recording(start: Starter) -> None:
    server = start("--model", "no-such-model")
    assert server.wait() == ModelNotFoundError.exit_code
    trace = Trace.open(server.trace_folder)
    verify(trace)
    assert failures(trace) == {"api": "ModelNotFoundError"}
    assert "no-such-model" in describe(trace)


OWNERS: dict[str, tuple[str, Message]] = {
    "api": ("detokenizer", UserReply([])),
    "tokenizer-0": ("api", AbortMsg(999)),
    "scheduler": ("tokenizer-0", AbortMsg(999)),
    "detokenizer": ("scheduler-0", DetokenizeMsg()),
}
"""For each channel one of those who send there, and a message that can be sent there."""


@contextlib.contextmanager
def forger(server: RunningServer, channel: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket to one of a server's channels."""
    (address,) = [address for address in server.socket_addresses() if address.endswith(f"/{channel}.ipc")]
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        yield socket
        socket.close(linger=10_000)


def noise(channel: str, message: Message) -> list[list[bytes]]:
    """What doesn't belong on a channel: malformed, oversized, of an unknown kind or another channel's, or repeated."""

    def envelope(sender: str, number: int, where: str = channel) -> bytes:
        return encode_envelope(Envelope(sender, where, number, 5))

    another = UserReply([]) if channel != "api" else AbortMsg(999)
    unknown = msgspec.msgpack.encode([{"type": "SurpriseMsg"}])
    return [
        [b"noise"], [b"", b""], [b"a", b"b", b"c"], [envelope("x", 1), b"noise"],
        [envelope("x", 1), bytes(MAX_MESSAGE_BYTES + 1)], [envelope("x", 1), unknown],
        [envelope("x", 1), encode_messages([another])], [envelope("x", 1, "elsewhere"), encode_messages([message])],
        [envelope("x", 5), encode_messages([message])], [envelope(OWNERS[channel][0], 1), encode_messages([message])],
    ]  # fmt: skip


def test_noise_of_every_kind_on_every_channel_is_counted_and_skipped(start: Starter) -> None:
    server = start("--seed", "5")
    caller = Caller(server, 200)
    assert caller.first_chunk.wait(20)
    for channel, (_, message) in OWNERS.items():
        with forger(server, channel) as socket:
            for frames in noise(channel, message):
                socket.send_multipart(frames)
    caller.join(30)
    assert (caller.text, caller.error) == (echo("ABC", 200), None)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    trace = check_trace(server)
    rejected = Counter(e.event.channel for e in trace.events() if isinstance(e.event, events.MsgRejected))
    assert rejected == dict.fromkeys(OWNERS, 10)


@pytest.mark.parametrize("channel", OWNERS)
def test_a_message_of_our_own_that_cannot_be_read_leaves_nobody_waiting(start: Starter, channel: str) -> None:
    server = start("--seed", "1000")
    waiting = Caller(server, 200, stream=False)
    wait_running(server, 1)
    sender = OWNERS[channel][0]
    with forger(server, channel) as socket:
        socket.send_multipart([encode_envelope(Envelope(sender, channel, 1_000_000, 5)), b"noise"])
    waiting.join(20)
    assert waiting.status == 503
    assert server.wait() == WorkerLostError.exit_code
    assert f"a message from {sender} is lost" in server.log
    assert server.left_behind() == []


def test_the_words_of_a_defect_are_not_recorded() -> None:
    recorder = MemoryRecorder()
    record_failure(recorder, KeyError("a prompt"))
    record_failure(recorder, OutOfMemoryError("one page is too little"))
    told = [(e.error, e.message) for e in recorder.events if isinstance(e, events.ProcessFailed)]
    assert told == [("KeyError", ""), ("OutOfMemoryError", "one page is too little")]


def test_a_worker_shows_where_its_threads_are_and_goes_on(start: Starter) -> None:
    server = start(*FEW)
    server.workers()["scheduler-0"].send_signal(SHOW_STACKS)
    deadline = time.monotonic() + 10
    while "in run_scheduler" not in server.log:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)
    assert httpx.post(f"{server.url}/generate", json={"text": "AB"}).json()["text"] == echo("AB", 128)


class OneTurn:
    """As much of a scheduler, and of its channels, as one turn of the loop needs.

    Args:
        steps: how many steps a turn submits.
        reply: what it gives to the detokenizer.
    """

    def __init__(self, steps: int, reply: object) -> None:
        self.has_work = True
        self.step_number = 0
        self.num_progressed = 0
        self._steps = steps
        self._reply = reply

    @property
    def stopping(self) -> bool:
        return not self.has_work

    def receive(self, *args: object, **options: object) -> list[object]:
        return []

    def receive_last(self) -> list[object]:
        return []

    def step(self) -> object:
        self.step_number += self._steps
        self.has_work = False
        return self._reply

    def send(self, message: object) -> None:
        """It goes nowhere."""

    def progressed(self) -> None:
        self.num_progressed += 1

    def close(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(("steps", "reply", "num_progressed"), [(1, None, 1), (0, "tokens", 1), (0, None, 0)])
def test_a_turn_counts_only_where_something_was_done(steps: int, reply: object, num_progressed: int) -> None:
    turn = OneTurn(steps, reply)
    run_loop(cast(Scheduler, turn), cast(SchedulerIO, turn))
    assert turn.num_progressed == num_progressed
