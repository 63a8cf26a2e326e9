"""`learnsgl bench scheduler`: what a step costs when nothing is computed, against the batch and the radix tree.

The scheduler is the real one, on an executor that answers at once; recording is off (`bench trace` measures it).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from learnsgl.bench.load import SHORT_OUTPUT_LEN, SteadyLoad
from learnsgl.bench.report import load
from learnsgl.bench.stats import quantile
from learnsgl.config import TraceLevel
from learnsgl.trace.recorder import Recorder

Tell = Callable[[str], None]
CHURN_RUNNING = 16


class Settings(msgspec.Struct, frozen=True):
    """What is measured.

    Attributes:
        running: running requests, all decoding.
        nodes: least nodes of the radix tree beside `running[-1]` decoding requests, and beside 16 short ones.
        page_sizes: tokens a page.
        steps: steps timed in each repeat.
        repeats: how often each case is timed; cases take turns.
    """

    running: list[int]
    nodes: list[int]
    page_sizes: list[int]
    steps: int
    repeats: int


class Case(msgspec.Struct, frozen=True):
    """One situation that a step is timed in.

    Attributes:
        kind: `batch` and `tree`: all requests decode; `churn`: a request ends and another arrives each step.
        num_running: running requests.
        page_size: tokens a page.
        num_nodes: least nodes of the tree at the start.
    """

    kind: str
    num_running: int
    page_size: int
    num_nodes: int


class CaseTimes(msgspec.Struct):
    """What a step took.

    Attributes:
        case: where.
        num_nodes_before, num_nodes_after: nodes of the tree when timing began and ended.
        median_us: of each repeat, microseconds.
        p99_us: likewise.
        load: processes that wanted a core in the minute before each repeat.
    """

    case: Case
    num_nodes_before: int
    num_nodes_after: int = 0
    median_us: list[float] = []
    p99_us: list[float] = []
    load: list[float] = []


def cases(settings: Settings) -> list[Case]:
    """Every situation, in the order of the tables."""
    sizes = settings.page_sizes
    found = [Case("batch", running, size, 1) for size in sizes for running in settings.running]
    found += [Case("tree", settings.running[-1], size, nodes) for size in sizes for nodes in settings.nodes]
    return found + [Case("churn", CHURN_RUNNING, size, nodes) for size in sizes for nodes in settings.nodes]


def measure(settings: Settings, tell: Tell) -> list[CaseTimes]:
    """Time the steps of every case, the cases of one kind and page size in turns."""
    found = []
    groups: dict[tuple[str, int], list[Case]] = {}
    for case in cases(settings):
        groups.setdefault((case.kind, case.page_size), []).append(case)
    for (kind, page_size), group in groups.items():
        tell(f"{kind}, page size {page_size}: {len(group)} cases")
        loads = [_load_of(case, settings) for case in group]
        times = [CaseTimes(case, steady.num_nodes) for case, steady in zip(group, loads, strict=True)]
        for _ in range(settings.repeats):
            for steady, into in zip(loads, times, strict=True):
                _time_steps(steady, settings.steps, into)
        for steady, into in zip(loads, times, strict=True):
            into.num_nodes_after = steady.num_nodes
        found += times
    return found


def _load_of(case: Case, settings: Settings) -> SteadyLoad:
    long_output = settings.steps * settings.repeats + 4 * SHORT_OUTPUT_LEN
    output_len = SHORT_OUTPUT_LEN if case.kind == "churn" else long_output
    return SteadyLoad(
        case.num_running, output_len, case.page_size, Recorder(TraceLevel.OFF), num_nodes=case.num_nodes
    )  # fmt: skip


def _time_steps(steady: SteadyLoad, num_steps: int, into: CaseTimes) -> None:
    into.load.append(load())
    took_us = []
    for _ in range(num_steps):
        start_ns = time.perf_counter_ns()
        steady.step()
        took_us.append((time.perf_counter_ns() - start_ns) / 1e3)
        steady.refill()
    into.median_us.append(round(quantile(took_us, 0.5), 2))
    into.p99_us.append(round(quantile(took_us, 0.99), 2))
