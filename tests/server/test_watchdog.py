"""The watchdog: who beats is let alone, who is silent is told once, and a pause of everything counts little."""

from __future__ import annotations

import multiprocessing
import threading
from multiprocessing.connection import Connection

import pytest

from learnsgl.server.watchdog import BEAT, Watchdog, interval_s, start_beating


@pytest.fixture
def pulses() -> dict[str, tuple[Connection, Connection]]:
    return {name: multiprocessing.Pipe(duplex=False) for name in ("a", "b")}


def watch(pulses: dict[str, tuple[Connection, Connection]], limit_s: float = 4.0) -> tuple[Watchdog, list[str]]:
    told: list[str] = []
    return Watchdog({name: reader for name, (reader, _) in pulses.items()}, limit_s, told.append), told


def test_silence_is_told_once(pulses: dict[str, tuple[Connection, Connection]]) -> None:
    dog, told = watch(pulses)
    for _ in range(4):
        pulses["a"][1].send_bytes(BEAT)
        dog.look(1.0)
        assert told == []
    pulses["a"][1].send_bytes(BEAT)
    dog.look(1.0)
    assert told == ["b"]
    for _ in range(5):
        dog.look(1.0)
    assert told == ["b", "a"]


def test_one_beat_ends_a_silence(pulses: dict[str, tuple[Connection, Connection]]) -> None:
    dog, told = watch(pulses)
    for turn in range(40):
        if turn % 4 == 3:
            for _, beats in pulses.values():
                beats.send_bytes(BEAT)
                beats.send_bytes(BEAT)
        dog.look(1.0)
    assert told == []


def test_time_in_which_the_parent_slept_too_counts_little(pulses: dict[str, tuple[Connection, Connection]]) -> None:
    dog, told = watch(pulses)
    dog.look(3600.0)
    dog.look(1.0)
    assert told == []


def test_a_dead_worker_is_not_silent(pulses: dict[str, tuple[Connection, Connection]]) -> None:
    dog, told = watch(pulses)
    for _, beats in pulses.values():
        beats.close()
    for _ in range(9):
        dog.look(1.0)
    assert told == []


def test_a_thread_beats_until_nobody_listens() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    start_beating(writer, 0.02)
    assert [reader.recv_bytes() for _ in range(3)] == [BEAT] * 3
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pulse"]
    reader.close()
    thread.join(5)
    assert not thread.is_alive()
    assert interval_s(0.02) == 0.005
    assert interval_s(1000) == 1.0
