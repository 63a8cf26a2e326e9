"""`learnsgl bench online` from its parsed options to printed tables, a report, a figure and an exit code.

`bench/command.py` calls `run_online`, and `bench/run.py` `measure_online` in between.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from learnsgl.bench.online.arrivals import Arrivals
from learnsgl.bench.online.choices import check_online, extra_body_of, loads_of, num_requests_of
from learnsgl.bench.online.measure import Source, measure
from learnsgl.bench.online.results import Limits, OnlineResults, Outcome, Row
from learnsgl.bench.online.settings import Endpoint, PromptForm, Settings
from learnsgl.bench.workload import Lengths
from learnsgl.config import client_api_key
from learnsgl.errors import FolderError, ServingError, StartupError

_HIDDEN = {"--api-key": "KEY", "--url": "URL"}
_INTERRUPTED = 130
_DEFAULT_BURSTINESS = 0.5


def run_online(args: argparse.Namespace) -> int:
    """Measure, print, write and draw.

    Returns:
        The exit code: 130 after Ctrl-C, when all that there is so far has been told.

    Raises:
        LearnsglError: what was asked for can't be measured, written or drawn.
        ServingError: the server answered no request at all.
    """
    from learnsgl.bench.run import run_bench

    check_online(args)
    if args.figure is not None:
        _import_figure()
    report = run_bench(args, command=shlex.join(without_secrets(["learnsgl", *sys.argv[1:]])))
    results = msgspec.convert(report.results, OnlineResults)
    if args.figure is not None:
        _draw(args, results)
    if results.was_interrupted:
        return _INTERRUPTED
    rows = [row for run in results.runs for row in run.rows]
    if not any(row.outcome in (Outcome.DONE, Outcome.LEFT) for row in rows):
        raise ServingError(f"no request was answered: {_first_error(rows)}")
    return 0


def _first_error(rows: Sequence[Row]) -> str:
    return next((f"{row.outcome}: {row.error}" for row in rows if row.outcome.is_error), "there was none")


def _import_figure() -> Callable[..., Any]:
    try:
        from learnsgl.viz.online import online_latency
    except ImportError as error:
        raise StartupError(f"--figure needs matplotlib ({error}): pip install 'learnsgl[demo]'") from error
    return online_latency


def _draw(args: argparse.Namespace, results: OnlineResults) -> None:
    if not any(run.rows for run in results.runs):
        print("no request was sent, so there is nothing to draw", file=sys.stderr)
        return
    figure, _ = _import_figure()(results)
    try:
        figure.savefig(args.figure)
    except OSError as error:
        raise FolderError(f"--figure {args.figure} can't be written: {error}") from error
    print(args.figure)


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line without the server's key and address, which a report must not hold."""
    shown: list[str] = []
    for word in words:
        before = shown[-1] if shown else ""
        flag, equals, _ = word.partition("=")
        if before in _HIDDEN:
            shown.append(_HIDDEN[before])
        else:
            shown.append(f"{flag}={_HIDDEN[flag]}" if equals and flag in _HIDDEN else word)
    return shown


def measure_online(args: argparse.Namespace, tell: Callable[[str], None]) -> tuple[Settings, OnlineResults]:
    """What was asked for, and what came of it."""
    settings = settings_of(args)
    key = client_api_key(args.api_key, is_url_given=args.url is not None)
    source = Source(args.url, key, args.serve_options, args.prompts, args.workload)
    return settings, measure(settings, source, tell)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that a command line asks for.

    Raises:
        OptionError: a length or the extra body isn't one.
    """
    return Settings(
        own_server=args.url is None, model=args.model, endpoint=Endpoint(args.endpoint),
        prompt_form=PromptForm(args.prompt_form), vocab_size=args.vocab_size,
        loads=loads_of(args), arrivals=Arrivals(args.arrivals or "poisson"),
        burstiness=args.burstiness or _DEFAULT_BURSTINESS, num_requests=num_requests_of(args),
        max_in_flight=args.max_in_flight, input_len=Lengths.parse(args.input_len or "128", "--input-len"),
        output_len=Lengths.parse(args.output_len or "64", "--output-len"), prefix_len=args.prefix_len or 0,
        num_prefixes=args.num_prefixes or 1, prompts=None if args.prompts is None else args.prompts.name,
        workload=None if args.workload is None else args.workload.name, ignore_eos=args.ignore_eos,
        temperature=args.temperature, extra_body=extra_body_of(args), plain_share=args.plain_share or 0.0,
        probes=args.probe, timeout_s=args.timeout, warm_up=args.warm_up, seed=args.seed,
        limits=Limits(args.slo_ttft_ms, args.slo_tpot_ms),
    )  # fmt: skip
