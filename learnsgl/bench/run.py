"""Runs one benchmark, from its parsed options to printed tables and a report on disk.

`command.py` calls `run_bench`; `docs.py` asks for the tables of reports that are there already.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from learnsgl.bench import memory, offline, replay, scheduler, steps, tracers, tracing
from learnsgl.bench.ceilings import measure_in_process
from learnsgl.bench.command import TRACERS
from learnsgl.bench.gguf import find_gguf
from learnsgl.bench.kernels_tables import KernelResults, kernels_tables
from learnsgl.bench.memory_tables import memory_tables
from learnsgl.bench.offline_tables import offline_tables
from learnsgl.bench.online.results import OnlineResults
from learnsgl.bench.online.tables import online_tables
from learnsgl.bench.peers.base import PeerSpec, longest_context
from learnsgl.bench.peers.llama_cpp_peer import is_installed
from learnsgl.bench.replay_tables import replay_tables
from learnsgl.bench.report import Report, load, now_iso, num_cores, read_machine, read_versions, write_report
from learnsgl.bench.scheduler_tables import scheduler_tables
from learnsgl.bench.sizes import sizes_of
from learnsgl.bench.steps_tables import steps_tables
from learnsgl.bench.tables import Table
from learnsgl.bench.tracers_tables import tracers_tables
from learnsgl.bench.tracing_tables import trace_tables
from learnsgl.bench.workload import NANO_VLLM_MAX_LEN, NANO_VLLM_REQUESTS, Lengths
from learnsgl.hub import resolve_model
from learnsgl.hub.model_files import ModelSource
from learnsgl.models.config import load_model_config

Keep = Callable[[Any, Any], None]
"""Writes settings and results as they are so far."""


def run_bench(args: argparse.Namespace, *, command: str | None = None) -> Report:
    """Measure, print the tables, and write the report if `args.out` names a folder.

    Args:
        args: what `learnsgl bench NAME` was given.
        command: the command line to write down; by default this process's.

    Raises:
        OptionError, StartupError, ServingError: what was asked for can't be measured.
        FolderError: the report can't be written.
    """
    date, load_before, start_s = now_iso(), load(), time.monotonic()

    def report_of(settings: Any, results: Any) -> Report:
        return Report(
            bench=args.bench,
            command=command or shlex.join(["learnsgl", *sys.argv[1:]]),
            date=date,
            duration_s=round(time.monotonic() - start_s, 1),
            machine=read_machine(load_before),
            versions=read_versions(),
            settings=msgspec.to_builtins(settings),
            results=msgspec.to_builtins(results),
        )

    def keep(settings: Any, results: Any) -> None:
        if args.out is not None:
            write_report(report_of(settings, results), args.out)

    settings, results = _KEEPING[args.bench](args, keep) if args.bench in _KEEPING else _MEASURES[args.bench](args)
    report = report_of(settings, results)
    print(f"{report.command}: {report.machine.text()}, load {load_before} before, {report.duration_s:.0f} s")
    for table in tables_of(report):
        print(f"\n{table.name}\n{table.text()}")
    if args.out is not None:
        print(f"\n{write_report(report, args.out)}")
    return report


def tables_of(report: Report) -> list[Table]:
    """The tables of a report, from its raw results."""
    if report.bench == "offline":
        return offline_tables(msgspec.convert(report.results, offline.OfflineResults))
    if report.bench == "scheduler":
        return scheduler_tables(msgspec.convert(report.results, list[scheduler.CaseTimes]))
    if report.bench == "trace":
        return trace_tables(msgspec.convert(report.results, tracing.TraceResults))
    if report.bench == "replay":
        return replay_tables(msgspec.convert(report.results, list[replay.Length]))
    if report.bench == "tracers":
        return tracers_tables(msgspec.convert(report.results, list[tracers.TracerRun]))
    if report.bench == "kernels":
        return kernels_tables(msgspec.convert(report.results, KernelResults))
    if report.bench == "steps":
        return steps_tables(msgspec.convert(report.results, steps.StepsResults))
    if report.bench == "online":
        return online_tables(msgspec.convert(report.results, OnlineResults))
    return memory_tables(msgspec.convert(report.results, list[memory.Start]))


def _tell(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _offline(args: argparse.Namespace, keep: Keep) -> tuple[Any, Any]:
    from_nano = args.workload == offline.NANO_VLLM
    settings = offline.Settings(
        model=args.model, dtype=args.dtype, quantizations=args.quantization, peers=args.peers,
        input_len=Lengths.parse(args.input_len, "--input-len"),
        output_len=Lengths.parse(args.output_len, "--output-len"),
        batches=[NANO_VLLM_REQUESTS] if from_nano else args.batch, num_requests=args.num_requests,
        repeats=args.repeats, num_threads=args.threads or num_cores(), seed=args.seed, workload=args.workload,
        alone=args.alone, floor=args.floor, device=args.device, temperature=args.temperature,
        max_prefill_length=args.max_prefill_length, limit_s=args.limit_s,
    )  # fmt: skip
    specs = offline_specs(settings, args.gguf)
    limits: offline.Limits = None
    if settings.floor:
        _tell("a large copy and a large matrix product")
        sizes = sizes_of(load_model_config(specs[0].model_folder), settings.dtype)
        limits = sizes, measure_in_process(settings.device, settings.dtype)
    keep_these = functools.partial(keep, settings)
    return settings, offline.measure(settings, specs, _tell, limits=limits, keep=keep_these)


def offline_specs(settings: offline.Settings, gguf: Path | None) -> list[PeerSpec]:
    """The engines that the settings ask for, learnsgl first."""
    model = resolve_model(settings.model)
    names = ["learnsgl" if kind == "none" else f"learnsgl {kind}" for kind in settings.quantizations]
    kinds = [(name, "learnsgl", kind) for name, kind in zip(names, settings.quantizations, strict=True)]
    kinds += [(peer, peer, "none") for peer in settings.peers]
    if gguf is None and "llama.cpp" in settings.peers and is_installed():
        gguf = find_gguf(settings.model)
    from_nano = settings.workload == offline.NANO_VLLM
    longest = NANO_VLLM_MAX_LEN if from_nano else settings.input_len.high + settings.output_len.high
    options: dict[str, Any] = {}
    if settings.alone:
        options["max_model_len"] = longest_context(load_model_config(model.folder), longest)
    return [
        PeerSpec(
            name=name, kind=kind, model=settings.model, model_folder=model.folder, gguf=gguf, dtype=settings.dtype,
            quantization=quantization, num_threads=settings.num_threads, max_batch=max(settings.batches),
            max_len=longest, options=options,
            has_weights=model.source is not ModelSource.DUMMY, device=settings.device, alone=settings.alone,
            temperature=settings.temperature, max_prefill_length=settings.max_prefill_length,
            limit_s=settings.limit_s,
        )
        for name, kind, quantization in kinds
    ]  # fmt: skip


def _scheduler(args: argparse.Namespace) -> tuple[Any, Any]:
    settings = scheduler.Settings(args.running, args.nodes, args.page_size, args.steps, args.repeats)
    return settings, scheduler.measure(settings, _tell)


def _trace(args: argparse.Namespace) -> tuple[Any, Any]:
    settings = tracing.Settings(
        running=args.running, step_ms=args.step_ms, steps=args.steps, pairs=args.pairs, blocks=args.blocks,
        events=args.events, model="" if args.model == "none" else args.model, dtype=args.dtype,
        num_threads=args.threads or num_cores(), batch=args.batch, input_len=args.input_len,
        output_len=args.output_len, seed=args.seed, parts=tuple(args.parts), device=args.device,
    )  # fmt: skip
    return settings, tracing.measure(settings, _tell)


def _memory(args: argparse.Namespace) -> tuple[Any, Any]:
    settings = memory.Settings(args.model, args.repeats, shlex.split(args.serve_options))
    return settings, memory.measure(settings, _tell)


def _tracers(args: argparse.Namespace) -> tuple[Any, Any]:
    absent = tracers.missing(list(TRACERS))
    if args.tracers is None and absent:
        _tell(f"left out, because not installed: {', '.join(absent)}")
    chosen = args.tracers or [name for name in TRACERS if name not in absent]
    settings = tracers.Settings(
        model=args.model, tracers=list(dict.fromkeys(["none", *chosen])), dtype=args.dtype,
        num_threads=args.threads or num_cores(), batch=args.batch, input_len=args.input_len,
        output_len=args.output_len, repeats=args.repeats, seed=args.seed,
    )  # fmt: skip
    return settings, tracers.measure(settings, _tell)


def _replay(args: argparse.Namespace) -> tuple[Any, Any]:
    settings = replay.Settings(
        events=args.events, seeks=args.seeks, running=args.running, nodes=args.nodes, prompt_len=args.input_len,
        output_len=args.output_len, page_size=args.page_size, formats=args.formats,
    )  # fmt: skip
    return settings, replay.measure(settings, _tell)


def _kernels(args: argparse.Namespace) -> tuple[Any, Any]:
    from learnsgl.bench import kernels  # it loads torch, and no other benchmark does in this process

    settings = kernels.Settings(
        shapes=args.shapes, dtype=args.dtype, page_size=args.page_size, repeats=args.repeats, sizes=args.sizes
    )
    return settings, kernels.measure(settings, _tell)


def _steps(args: argparse.Namespace, keep: Keep) -> tuple[Any, Any]:
    settings = steps.Settings(
        models=args.models, dtype=args.dtype, device=args.device, batches=args.batch, context=args.context,
        steps=args.steps, prefill_len=args.prefill_len, prefill_repeats=args.prefill_repeats, variants=args.variants,
        num_threads=args.threads or num_cores(), seed=args.seed, attention_backend=args.attention_backend,
    )  # fmt: skip
    _tell("a large copy and a large matrix product")
    ceilings = measure_in_process(settings.device, settings.dtype)
    return settings, steps.measure(settings, ceilings, _tell, keep=functools.partial(keep, settings))


def _online(args: argparse.Namespace) -> tuple[Any, Any]:
    from learnsgl.bench.online.command import measure_online

    return measure_online(args, _tell)


_KEEPING = {"offline": _offline, "steps": _steps}
"""They write what they have after each engine."""
_MEASURES = {
    "scheduler": _scheduler, "trace": _trace, "memory": _memory, "tracers": _tracers, "replay": _replay,
    "kernels": _kernels, "online": _online,
}  # fmt: skip
