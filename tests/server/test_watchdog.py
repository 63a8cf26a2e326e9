"""The watchdog: who gets on is let alone, who is silent or stuck is told of once, and a pause counts little."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from learnsgl.config import TraceConfig, TraceLevel
from learnsgl.message.mailbox import Loop, Mailbox
from learnsgl.server.watchdog import Beat, Fault, Pulse, Watchdog, interval_s
from learnsgl.trace.manifest import create_run
from learnsgl.trace.recorder import Recorder, open_recorder

Pipes = dict[str, tuple[Connection, Connection]]


class Told:
    """A watchdog over two workers, and what it has told."""

    def __init__(self, pipes: Pipes, silent_limit_s: float = 4.0, busy_limit_s: float = 100.0) -> None:
        self.faults: list[tuple[str, Fault, float]] = []
        readers = {name: reader for name, (reader, _) in pipes.items()}
        self.dog = Watchdog(readers, silent_limit_s, busy_limit_s)
        self._pipes = pipes

    def beat(self, name: str, turn: int = 0, is_waiting: bool = False) -> None:
        self._pipes[name][1].send_bytes(msgspec.msgpack.encode(Beat(turn, is_waiting)))

    def look(self, elapsed_s: float = 1.0) -> list[str]:
        """The names of those that were told of in this look."""
        before = len(self.faults)
        self.dog.look(elapsed_s, lambda name, fault, limit_s: self.faults.append((name, fault, limit_s)))
        return [name for name, _, _ in self.faults[before:]]


@pytest.fixture
def pipes() -> Pipes:
    return {name: multiprocessing.Pipe(duplex=False) for name in ("a", "b")}


def test_silence_is_told_once(pipes: Pipes) -> None:
    told = Told(pipes)
    for _ in range(4):
        told.beat("a")
        assert told.look() == []
    told.beat("a")
    assert told.look() == ["b"]
    for _ in range(5):
        told.look()
    assert told.faults == [("b", Fault.SILENT, 4.0), ("a", Fault.SILENT, 4.0)]


def test_one_beat_ends_a_silence(pipes: Pipes) -> None:
    told = Told(pipes)
    for turn in range(40):
        if turn % 4 == 3:
            for name in pipes:
                told.beat(name)
                told.beat(name)
        assert told.look() == []


def test_a_loop_that_gets_nothing_done_is_told_once(pipes: Pipes) -> None:
    told = Told(pipes, busy_limit_s=10)
    for second in range(30):
        told.beat("a", turn=7)  # beats, but in the same turn all the time
        told.beat("b", turn=second)
        told.look()
    assert told.faults == [("a", Fault.STUCK, 10)]


def test_a_loop_that_waits_for_messages_is_not_stuck(pipes: Pipes) -> None:
    told = Told(pipes, busy_limit_s=10)
    for _ in range(30):
        for name in pipes:
            told.beat(name, turn=7, is_waiting=True)
        assert told.look() == []


def test_getting_something_done_or_waiting_once_begins_anew(pipes: Pipes) -> None:
    told = Told(pipes, busy_limit_s=10)
    for second in range(60):
        told.beat("a", turn=second // 8)
        told.beat("b", turn=7, is_waiting=second % 8 == 0)
        assert told.look() == []


def test_seconds_between_two_beats_count_as_busy(pipes: Pipes) -> None:
    """A worker that hardly runs beats rarely, and is stuck all the same."""
    told = Told(pipes, busy_limit_s=10)
    for second in range(20):
        told.beat("b", turn=second)
        if second % 3 == 0:
            told.beat("a", turn=7)
        told.look()
    assert told.faults == [("a", Fault.STUCK, 10)]


def test_time_in_which_the_parent_slept_too_counts_little(pipes: Pipes) -> None:
    told = Told(pipes, busy_limit_s=6)
    assert (told.look(3600.0), told.look()) == ([], [])
    for name in pipes:
        told.beat(name)
    assert told.look(3600.0) == []


def test_a_dead_worker_is_neither_silent_nor_heard(pipes: Pipes) -> None:
    told = Told(pipes)
    told.beat("a")
    assert list(told.dog.beats()) == ["a"]
    for _, beats in pipes.values():
        beats.close()
    for _ in range(9):
        assert told.look() == []
    assert told.dog.beats() == {}


def test_noise_in_the_pipe_is_no_beat(pipes: Pipes) -> None:
    told = Told(pipes)
    pipes["a"][1].send_bytes(b"noise")
    assert told.dog.beats() == {}


def test_asking_between_two_looks_takes_no_beat_from_them(pipes: Pipes) -> None:
    told = Told(pipes)
    for _ in range(9):
        for name in pipes:
            told.beat(name)
        assert set(told.dog.beats()) == {"a", "b"}
        assert told.look() == []


def test_a_thread_beats_until_nobody_listens() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    loop = Loop()
    Pulse(writer, loop, Recorder(TraceLevel.OFF)).start(0.02)
    beats = [msgspec.msgpack.decode(reader.recv_bytes(), type=Beat) for _ in range(3)]
    assert beats == [Beat(0, False)] * 3
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pulse"]
    reader.close()
    thread.join(5)
    assert not thread.is_alive()
    assert interval_s(0.02) == 0.005
    assert interval_s(1000) == 1.0


def test_a_beat_tells_of_the_loop_and_of_the_recording(tmp_path: Path) -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    folder = create_run(tmp_path, {}, [])
    recorder = open_recorder(folder, TraceConfig(), "a", "tokenizer")
    loop = Loop()
    pulse = Pulse(writer, loop, recorder)
    loop.turn, loop.is_waiting = 3, True
    pulse.beat()
    recorder.close()
    loop.is_waiting = False
    pulse.beat()
    beats = [msgspec.msgpack.decode(reader.recv_bytes(), type=Beat) for _ in range(2)]
    assert beats == [Beat(3, True, folder.name.rpartition("-")[2]), Beat(3, False)]
    reader.close()
    pulse.beat()  # nobody listens, and nothing is raised


def test_a_mailbox_tells_when_its_loop_waits() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    seen: list[bool] = []
    mailbox = Mailbox([], reader, Recorder(TraceLevel.OFF), lambda word: seen.append(mailbox.loop.is_waiting))
    assert mailbox.receive(block=False) == []
    assert (mailbox.loop.turn, mailbox.loop.is_waiting) == (0, False)  # looked, and found nothing
    writer.send_bytes(b"a word")
    mailbox.receive(block=False)
    assert (mailbox.loop.turn, seen) == (1, [False])
    assert mailbox.receive_last() == []
    assert mailbox.loop.turn == 2  # it has waited
    mailbox.close()
    writer.close()
