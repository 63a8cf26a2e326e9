"""`learnsgl bench tracers`: our recording beside VizTracer and the PyTorch profiler, on the same prompts and weights.

Each run has a fresh process, which answers one wave of requests with one tracer on; the runs take turns. They record
different things (ours what the server decided, the others which functions and operators were called), so the tables
say what each costs and how much it leaves, not which is better.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import msgspec

from learnsgl.bench.peers.base import Peer, PeerFacts, PeerSpec, Wave
from learnsgl.bench.peers.process import PeerProcess, make_peer
from learnsgl.bench.report import load
from learnsgl.bench.workload import Lengths, Request, make_requests
from learnsgl.errors import OptionError
from learnsgl.trace.reader import Trace

Tell = Callable[[str], None]
WARM_UP_LEN = 4
"""Tokens that each process generates before the wave that counts."""
VIZTRACER_ENTRIES = 5_000_000
"""Room for every call of a wave; with less, VizTracer keeps the last ones."""


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        model: as `--model` takes it.
        tracers: some of `command.TRACERS`; none is always among them.
        dtype: of the model.
        num_threads: of the model.
        batch: requests at once.
        input_len, output_len: tokens of a request.
        repeats: rounds; in each every tracer has its turn.
        seed: of the prompts.
    """

    model: str
    tracers: list[str]
    dtype: str
    num_threads: int
    batch: int
    input_len: int
    output_len: int
    repeats: int
    seed: int


class TracerRun(msgspec.Struct, frozen=True):
    """One wave with one tracer.

    Attributes:
        tracer: one of `command.TRACERS`.
        number: of the round.
        tokens_per_s: generated tokens a second, of steps that decode.
        num_events: what was recorded.
        file_bytes: what it takes on disk.
        save_s: seconds to end the recording and have it on disk.
        open_s: seconds to read all of it back.
        load: processes that wanted a core in the minute before.
    """

    tracer: str
    number: int
    tokens_per_s: float
    num_events: int
    file_bytes: int
    save_s: float
    open_s: float
    load: float


class _Tracer(Protocol):
    """Records in this process from when it is made; in threads that start later, too."""

    def begin(self) -> None:
        """What counts begins now."""
        ...

    def save(self) -> None:
        """End the recording, and write it."""
        ...


class _VizTracer:
    def __init__(self, file: Path) -> None:
        from viztracer import VizTracer

        self._tracer = VizTracer(tracer_entries=VIZTRACER_ENTRIES, output_file=str(file), verbose=0)
        self._tracer.start()

    def begin(self) -> None:
        self._tracer.clear()

    def save(self) -> None:
        self._tracer.stop()
        self._tracer.save()


class _TorchProfiler:
    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self) -> None:
        from torch._C._profiler import _ExperimentalConfig  # the public way to profile the threads of an engine
        from torch.profiler import ProfilerActivity, profile

        every_thread = _ExperimentalConfig(profile_all_threads=True)
        self._profile = profile(activities=[ProfilerActivity.CPU], experimental_config=every_thread)
        self._profile.start()

    def save(self) -> None:
        self._profile.stop()
        self._profile.export_chrome_trace(str(self._file))


_IN_PROCESS: dict[str, Callable[[Path], _Tracer]] = {"viztracer": _VizTracer, "torch.profiler": _TorchProfiler}


class _TracedPeer:
    """An engine that answers one short wave, and one that counts, under a tracer that began before the engine."""

    def __init__(self, spec: PeerSpec, name: str, file: Path) -> None:
        self._tracer = _IN_PROCESS[name](file) if name in _IN_PROCESS else None
        self._peer = make_peer(spec)
        self.facts: PeerFacts = self._peer.facts
        self._num_waves = 0

    def run(self, requests: list[Request]) -> Wave:
        """As `Peer`; the first wave warms up."""
        if self._num_waves == 1 and self._tracer is not None:
            self._tracer.begin()
        self._num_waves += 1
        return self._peer.run(requests)

    def close(self) -> None:
        """Write the recording; an engine of ours writes its own when it is closed."""
        if self._tracer is not None:
            self._tracer.save()
        self._peer.close()


def _make_traced(spec: PeerSpec, *, name: str, file: Path) -> Peer:
    return _TracedPeer(spec, name, file)


def missing(tracers: list[str]) -> list[str]:
    """Those whose package isn't installed."""
    return [name for name in tracers if name == "viztracer" and find_spec(name) is None]


def measure(settings: Settings, tell: Tell) -> list[TracerRun]:
    """Run every tracer in every round.

    Raises:
        OptionError: a tracer isn't installed.
    """
    if absent := missing(settings.tracers):
        raise OptionError(
            f"--tracers {absent[0]} needs a package that isn't installed; pip install {absent[0]}, or name others: "
            f"{', '.join(name for name in settings.tracers if name not in absent)}"
        )
    runs = []
    with tempfile.TemporaryDirectory(prefix="learnsgl-bench-") as temp:
        for number in range(1, settings.repeats + 1):
            shift = number % len(settings.tracers)  # each is the first in turn
            for name in settings.tracers[shift:] + settings.tracers[:shift]:
                tell(f"round {number} of {settings.repeats}: {name}")
                runs.append(_run(settings, name, number, Path(temp) / f"{number}-{name}"))
    return runs


def _run(settings: Settings, name: str, number: int, place: Path) -> TracerRun:
    spec = PeerSpec(
        name=name, kind="learnsgl", model=settings.model, model_folder=Path(), gguf=None, dtype=settings.dtype,
        quantization="none", num_threads=settings.num_threads, max_batch=settings.batch,
        max_len=settings.input_len + settings.output_len, trace=place if name == "learnsgl" else None,
    )  # fmt: skip
    file = place.with_suffix(".json")
    load_before = load()
    with PeerProcess(spec, make=functools.partial(_make_traced, name=name, file=file)) as peer:
        for output_len, round_number in ((WARM_UP_LEN, 0), (settings.output_len, number)):
            lens = Lengths(settings.input_len, settings.input_len), Lengths(output_len, output_len)
            wave = peer.run(
                make_requests(
                    settings.batch,
                    *lens,
                    vocab_size=peer.facts.vocab_size,
                    seed=settings.seed,
                    round_number=round_number,
                )
            )
        start_s = time.perf_counter()
    save_s = time.perf_counter() - start_s
    rate = wave.num_decoded / (wave.total_s - wave.prefill_s)
    start_s = time.perf_counter()
    num_events, file_bytes = _read_all(name, place, file)
    open_s = time.perf_counter() - start_s if name != "none" else 0.0
    return TracerRun(
        name, number, round(rate, 2), num_events, file_bytes, round(save_s, 3), round(open_s, 4), load_before
    )


def _read_all(name: str, place: Path, file: Path) -> tuple[int, int]:
    """Read a recording as a viewer must; returns its number of events and its bytes."""
    if name == "none":
        return 0, 0
    if name == "learnsgl":
        trace = Trace.open(place)
        return sum(1 for _ in trace.events()), trace.num_bytes
    with file.open("rb") as stream:
        return len(json.load(stream)["traceEvents"]), file.stat().st_size
