"""`learnsgl bench trace`: what recording costs, level full against off, always in pairs that take turns.

From the small to the whole: one event; the tracing of one step at 256 requests; a run at 256 requests on a device that
takes 10 ms a step, as a GPU does; and the real model. Recordings are written to disk as in a server, and thrown away.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from learnsgl.bench.load import SteadyLoad
from learnsgl.bench.peers.base import Peer, PeerSpec
from learnsgl.bench.peers.process import PeerProcess
from learnsgl.bench.report import load
from learnsgl.bench.stats import quantile
from learnsgl.bench.workload import Lengths, make_requests
from learnsgl.config import Config, TraceConfig, TraceLevel
from learnsgl.message.types import DetokenizeMsg
from learnsgl.trace import events
from learnsgl.trace.events import Event
from learnsgl.trace.manifest import create_run
from learnsgl.trace.recorder import FRAME_EVENTS, Recorder, open_recorder

Tell = Callable[[str], None]
LEVELS = (TraceLevel.OFF, TraceLevel.FULL)
BLOCK_STEPS = 50
"""Steps of one level before it is the other's turn."""


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        running: running requests on the null executor.
        step_ms: milliseconds that the held device works on a step.
        steps: steps of one run on the held device.
        pairs: pairs of runs on the held device, and on the model.
        blocks: pairs of 50 steps on the executor that answers at once.
        events: events of each kind that are emitted.
        model: as `--model` takes it; empty leaves the model out.
        dtype: of the model.
        num_threads: of the model.
        batch: requests at once on the model.
        input_len, output_len: tokens of a request to the model.
        seed: of its prompts.
        parts: which of `command.TRACE_PARTS` are measured.
        device: of the model: auto, cpu or cuda.
    """

    running: int
    step_ms: float
    steps: int
    pairs: int
    blocks: int
    events: int
    model: str
    dtype: str
    num_threads: int
    batch: int
    input_len: int
    output_len: int
    seed: int
    parts: tuple[str, ...] = ("events", "steps", "held", "model")
    device: str = "auto"


class EventCost(msgspec.Struct, frozen=True):
    """What one kind of event costs, in microseconds: the median of the repeats of 512.

    Attributes:
        kind: the event's kind.
        emit_us: making and keeping it, where it happens.
        write_us: its share of encoding, compressing and writing a frame of 512, while the process waits.
    """

    kind: str
    emit_us: float
    write_us: float


class StepCost(msgspec.Struct, frozen=True):
    """Two blocks of steps that followed each other, in microseconds a step (median of the block).

    Attributes:
        off_us, full_us: a step at each level.
        write_us: writing what a step recorded, while the scheduler waits (a mean, since it comes every few steps).
    """

    off_us: float
    full_us: float
    write_us: float


class Run(msgspec.Struct, frozen=True):
    """One run at one level.

    Attributes:
        level: off or full.
        number: of the pair.
        tokens_per_s: generated tokens a second, of steps that decode.
        gaps_ms: inter-token latencies: milliseconds from one step's tokens to the next one's.
        load: processes that wanted a core in the minute before.
    """

    level: str
    number: int
    tokens_per_s: float
    gaps_ms: list[float]
    load: float


class TraceResults(msgspec.Struct):
    """Everything that was measured."""

    events: list[EventCost]
    steps: list[StepCost]
    held: list[Run]
    model: list[Run]


def measure(settings: Settings, tell: Tell, *, start: Callable[[PeerSpec], Peer] = PeerProcess) -> TraceResults:
    """Run the parts; `start` starts the engine of the last one, and a test names a fake."""
    with tempfile.TemporaryDirectory(prefix="learnsgl-bench-") as temp:
        folder = Path(temp)
        results = TraceResults([], [], [], [])
        if "events" in settings.parts:
            tell("the cost of an event")
            results.events = event_costs(settings, folder)
        if "steps" in settings.parts:
            tell(f"the tracing of a step at {settings.running} requests")
            results.steps = step_costs(settings, folder)
        for number in range(1, settings.pairs + 1) if "held" in settings.parts else ():
            tell(f"a device of {settings.step_ms:g} ms a step, pair {number} of {settings.pairs}")
            results.held += [held_run(settings, level, number, folder) for level in _in_turn(number)]
        if "model" in settings.parts and settings.model:
            results.model = model_runs(settings, folder, tell, start)
        return results


def _in_turn(number: int) -> tuple[TraceLevel, ...]:
    """The levels, each going first in every second pair."""
    return LEVELS if number % 2 else LEVELS[::-1]


@contextlib.contextmanager
def _recorder(level: TraceLevel, folder: Path) -> Iterator[Recorder]:
    """A recorder that writes into a run of its own, with a server's defaults."""
    config = TraceConfig(trace=folder, trace_level=level)
    run = None if level is TraceLevel.OFF else create_run(folder, Config(trace=config).to_json(), ["bench"])
    recorder = open_recorder(run, config, "scheduler-0", "scheduler")
    try:
        yield recorder
    finally:
        recorder.close()


# ---------------------------------------------------------------- an event


def event_costs(settings: Settings, folder: Path) -> list[EventCost]:
    """Make, keep and write events of three sizes, a frame at a time."""
    n = settings.running
    int64, int32, kept = np.arange(n).tobytes(), np.arange(n, dtype=np.int32).tobytes(), bytes(n)
    makers: dict[str, Callable[[int], Event]] = {
        "cache.touched": lambda ns: events.CacheTouched(ns, 12345, 67890),
        "sched.committed": lambda ns: events.SchedCommitted(ns, 99, ns, int64, int32, kept, 2**63),
        "sched.step": lambda ns: events.SchedStep(ns, 99, ns, int64, int32, int32, int32, 0, 0, 1000, 2**63),
    }
    costs = []
    for kind, make in makers.items():
        emit_us, write_us = [], []
        with _recorder(TraceLevel.FULL, folder) as recorder:
            for _ in range(max(1, settings.events // FRAME_EVENTS)):
                start_ns = time.perf_counter_ns()
                for _ in range(FRAME_EVENTS):
                    if recorder.full:
                        recorder.emit(make(recorder.now()))
                middle_ns = time.perf_counter_ns()
                recorder.flush()
                emit_us.append((middle_ns - start_ns) / FRAME_EVENTS / 1e3)
                write_us.append((time.perf_counter_ns() - middle_ns) / FRAME_EVENTS / 1e3)
        costs.append(EventCost(kind, round(quantile(emit_us, 0.5), 3), round(quantile(write_us, 0.5), 3)))
    return costs


# ---------------------------------------------------------------- a step


def step_costs(settings: Settings, folder: Path) -> list[StepCost]:
    """Blocks of steps of two schedulers under the same load, one recording and one not."""
    output_len = 2 * 64 + settings.blocks * BLOCK_STEPS
    found = []
    with _recorder(TraceLevel.OFF, folder) as silent, _recorder(TraceLevel.FULL, folder) as full:
        recorders = {TraceLevel.OFF: silent, TraceLevel.FULL: full}
        loads = {level: SteadyLoad(settings.running, output_len, 1, recorders[level]) for level in LEVELS}
        for number in range(1, settings.blocks + 1):
            took = {level: _block(loads[level], recorders[level]) for level in _in_turn(number)}
            (off_us, _), (full_us, write_us) = took[TraceLevel.OFF], took[TraceLevel.FULL]
            found.append(StepCost(round(off_us, 2), round(full_us, 2), round(write_us, 2)))
    return found


def _block(steady: SteadyLoad, recorder: Recorder) -> tuple[float, float]:
    """Microseconds of a step (median), and of writing a step's events (mean)."""
    took_us, writing_ns = [], 0
    for _ in range(BLOCK_STEPS):
        start_ns = time.perf_counter_ns()
        steady.step()
        end_ns = time.perf_counter_ns()
        recorder.flush_if_due()
        writing_ns += time.perf_counter_ns() - end_ns
        took_us.append((end_ns - start_ns) / 1e3)
    start_ns = time.perf_counter_ns()
    recorder.flush()
    writing_ns += time.perf_counter_ns() - start_ns
    return quantile(took_us, 0.5), writing_ns / BLOCK_STEPS / 1e3


# ---------------------------------------------------------------- a device that takes its time


def held_run(settings: Settings, level: TraceLevel, number: int, folder: Path) -> Run:
    """The scheduler's loop as its worker turns it, on a device that takes so long for every step."""
    encoder = msgspec.msgpack.Encoder()
    moments = []
    load_before = load()
    with _recorder(level, folder) as recorder:
        steady = SteadyLoad(settings.running, settings.steps + 64, 1, recorder, step_s=settings.step_ms / 1e3)
        gc.collect()  # of the run before, so that this one doesn't pay for it
        for _ in range(settings.steps + 1):
            recorder.flush_if_due()  # as the worker does, before it looks for messages
            reply: DetokenizeMsg | None = steady.step()
            if reply is not None:
                encoder.encode(reply)
            moments.append(time.perf_counter())
    gaps_ms = [1e3 * (after - before) for before, after in itertools.pairwise(moments)]
    rate = settings.running * len(gaps_ms) / (moments[-1] - moments[0])
    return Run(level.value, number, round(rate, 2), [round(gap, 3) for gap in gaps_ms], load_before)


# ---------------------------------------------------------------- the real model


def model_runs(
    settings: Settings, folder: Path, tell: Tell, start: Callable[[PeerSpec], Peer] = PeerProcess
) -> list[Run]:
    """Two engines in processes of their own, one of which records, answering the same prompts in turns."""
    runs = []
    with contextlib.ExitStack() as cleanup:
        peers = {}
        for level in LEVELS:
            tell(f"starting the model, trace level {level.value}")
            peers[level] = start(_spec(settings, level, folder))
            cleanup.callback(peers[level].close)
        for number in range(settings.pairs + 1):
            tell(f"the model, pair {number} of {settings.pairs}" + (" (warm-up)" if number == 0 else ""))
            pair = [_model_run(settings, peers[level], level, number) for level in _in_turn(number)]
            runs += pair if number else []
    return runs


def _spec(settings: Settings, level: TraceLevel, folder: Path) -> PeerSpec:
    return PeerSpec(
        name=f"trace {level.value}", kind="learnsgl", model=settings.model, model_folder=Path(), gguf=None,
        dtype=settings.dtype, quantization="none", num_threads=settings.num_threads, max_batch=settings.batch,
        max_len=settings.input_len + settings.output_len, trace=None if level is TraceLevel.OFF else folder,
        device=settings.device,
    )  # fmt: skip


def _model_run(settings: Settings, peer: Peer, level: TraceLevel, number: int) -> Run:
    lens = Lengths(settings.input_len, settings.input_len), Lengths(settings.output_len, settings.output_len)
    requests = make_requests(
        settings.batch, *lens, vocab_size=peer.facts.vocab_size, seed=settings.seed, round_number=number
    )
    load_before = load()
    wave = peer.run(requests)
    rate = wave.num_decoded / (wave.total_s - wave.prefill_s)
    return Run(level.value, number, round(rate, 2), [round(1e3 * gap, 3) for gap in wave.gaps_s], load_before)
