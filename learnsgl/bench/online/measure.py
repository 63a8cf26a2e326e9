"""`learnsgl bench online`: a sweep of loads on one server, run by run.

`bench/run.py` calls `measure`. Ctrl-C ends the sweep and not the program: what there is so far becomes the results.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec

from learnsgl.bench.online.client import Client
from learnsgl.bench.online.drive import drive
from learnsgl.bench.online.http1 import Http1Transport
from learnsgl.bench.online.plan import WARM_UP, FromFile, MadeUp, Workload, read_prompts
from learnsgl.bench.online.probe import probing
from learnsgl.bench.online.progress import Progress
from learnsgl.bench.online.prompts import Form, WordsForm
from learnsgl.bench.online.replayed import Replayed, read_rows
from learnsgl.bench.online.results import BUSY_SHARE, Load, OnlineResults, Outcome, Run
from learnsgl.bench.online.settings import Settings
from learnsgl.bench.online.target import Target, find_form, find_target
from learnsgl.bench.workload import Lengths
from learnsgl.errors import ServingError

Tell = Callable[[str], None]
_SHORT = Lengths(16, 16)


class Source(msgspec.Struct, frozen=True):
    """What isn't to be written down with the settings: where server and files are.

    Attributes:
        url, api_key: of the server; without a URL one is started.
        serve_options: for that one.
        prompts, workload: files; at most one is given.
    """

    url: str | None = None
    api_key: str | None = None
    serve_options: str = ""
    prompts: Path | None = None
    workload: Path | None = None


def measure(settings: Settings, source: Source, tell: Tell) -> OnlineResults:
    """Find the server, warm it up, and send it each load.

    Raises:
        OptionError, FolderError, StartupError, RequestError: what was asked for can't be measured.
        ServingError: the server answered none of the requests ahead of the first run.
    """
    prompts = read_prompts(source.prompts, settings.endpoint) if source.prompts is not None else None
    rows = read_rows(source.workload) if source.workload is not None else None
    with contextlib.ExitStack() as cleanup:
        target = find_target(
            source.url, source.api_key, settings.model, source.serve_options, cleanup, tell
        )  # fmt: skip
        form: Form = WordsForm() if prompts is not None else find_form(target, settings)
        workload: Workload
        if prompts is not None:
            workload = FromFile(settings, prompts, settings.num_requests or len(prompts))
        elif rows is not None:
            workload = Replayed(rows, settings.workload or "", form, settings.seed)
        else:
            workload = MadeUp(settings, form, settings.num_requests or 1)
        results = OnlineResults(
            model=target.model, workload=_words(settings, workload, form), limits=settings.limits,
            notes=[*workload.notes], runs=[],
        )  # fmt: skip
        try:
            asyncio.run(_sweep(target, settings, workload, form, results, tell))
        except KeyboardInterrupt:
            results.was_interrupted = True
    return results


def _words(settings: Settings, workload: Workload, form: Form) -> str:
    how = "" if settings.prompts else " as text" if isinstance(form, WordsForm) else " as token ids"
    return f"{workload.text()}{how}, {settings.endpoint.path}"


async def _sweep(
    target: Target, settings: Settings, workload: Workload, form: Form, results: OnlineResults, tell: Tell
) -> None:
    async with httpx.AsyncClient(**target.options(), timeout=None, transport=Http1Transport()) as http:
        client = Client(http, settings.endpoint, target.fields(settings), settings.timeout_s)
        if settings.warm_up:
            tell(f"warming up with {settings.warm_up} requests")
            await _warm_up(client, settings, form)
        for number, load in enumerate(settings.loads):
            plan = workload.plan(load, number)
            run = Run(load=load, num_planned=len(plan), duration_s=0.0, cpu_share=0.0, max_lag_s=0.0, rows=[])
            results.runs.append(run)
            tell(f"{load.text()}: {len(plan)} requests")
            progress = Progress(load.text(), len(plan))
            try:
                async with probing(target, settings.probes, run):
                    await drive(client, plan, run, progress, max_in_flight=settings.max_in_flight)
            finally:
                progress.close()
            _judge(run, tell)
            if not any(row.outcome in (Outcome.DONE, Outcome.LEFT) for row in run.rows):
                results.notes.append("The server answered no request of the last run, so the sweep ended there.")
                return


async def _warm_up(client: Client, settings: Settings, form: Form) -> None:
    """A few requests with prompts of their own.

    Raises:
        ServingError: none was answered.
    """
    load = Load(is_burst_of_all=True)
    if settings.prompts is not None or settings.workload is not None:  # the lengths of the settings aren't theirs
        settings = msgspec.structs.replace(settings, input_len=_SHORT, output_len=_SHORT)
    plan = MadeUp(settings, form, settings.warm_up).plan(load, WARM_UP)
    run = Run(load=load, num_planned=len(plan), duration_s=0.0, cpu_share=0.0, max_lag_s=0.0, rows=[])
    progress = Progress("warm-up", len(plan), is_shown=False)
    await drive(client, plan, run, progress)
    if all(row.outcome.is_error for row in run.rows):
        failed = run.rows[0]
        raise ServingError(
            f"none of {len(plan)} requests to warm up was answered; the first one's error ({failed.outcome}): "
            f"{failed.error}"
        )


def _judge(run: Run, tell: Tell) -> None:
    if run.is_client_busy:
        tell(
            f"this client used {100 * run.cpu_share:.0f}% of a core; above {100 * BUSY_SHARE:.0f}% its own work shows "
            f"in the latencies. Its event loop came up to {1e3 * run.max_lag_s:.0f} ms late; a lower "
            "rate tells how much that matters"
        )
