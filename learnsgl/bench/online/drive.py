"""Sends the requests of a plan, in an open or a closed loop, and watches whether this client itself keeps up.

`measure.py` calls `drive` for every run. Whatever ends it, the rows of what was sent so far are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

from learnsgl.bench.online.client import Client
from learnsgl.bench.online.plan import Planned
from learnsgl.bench.online.progress import Progress
from learnsgl.bench.online.results import Row, Run, seconds_since

_LOOK_S = 0.02


class Drive:
    """One run.

    Args:
        client: sends each request.
        progress: is told of each end.
        run: gets the rows.
    """

    def __init__(self, client: Client, progress: Progress, run: Run) -> None:
        self._client = client
        self._progress = progress
        self._run = run
        self._start_s = time.monotonic()

    def _now_s(self) -> float:
        return seconds_since(self._start_s)

    async def _send(self, planned: Planned, intended_s: float) -> None:
        row = Row(
            index=planned.index, intended_s=intended_s, sent_s=self._now_s(), stream=planned.stream,
            planned_prompt_tokens=planned.num_tokens, max_tokens=planned.max_tokens,
        )  # fmt: skip
        self._run.rows.append(row)
        try:
            await self._client.send(planned, row, self._start_s)
        finally:
            self._progress.ended(row)

    async def open_loop(self, plan: list[Planned], max_in_flight: int | None) -> None:
        """Send each request at its time, whether or not others were answered.

        Args:
            plan: in the order of their arrival.
            max_in_flight: with so many requests at once, others wait here, and their latencies count meanwhile.
        """
        gate = asyncio.Semaphore(max_in_flight or max(1, len(plan)))

        async def send(planned: Planned) -> None:
            async with gate:
                await self._send(planned, planned.arrival_s)

        async with asyncio.TaskGroup() as tasks:
            for planned in plan:
                delay_s = planned.arrival_s - self._now_s()
                await asyncio.sleep(max(0.0, delay_s))  # 0 lets the others work
                tasks.create_task(send(planned))

    async def closed_loop(self, plan: list[Planned], concurrency: int) -> None:
        """Keep so many requests running: each client sends its next one when its last one has ended."""
        todo = iter(plan)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(plan))):
                tasks.create_task(self._one_after_the_other(todo))

    async def _one_after_the_other(self, todo: Iterator[Planned]) -> None:
        for planned in todo:
            await self._send(planned, self._now_s())


async def drive(
    client: Client, plan: list[Planned], run: Run, progress: Progress, *, max_in_flight: int | None = None
) -> None:
    """Send all requests of a plan, and wait until each has ended.

    Args:
        client: sends each.
        plan: in the order of their arrival.
        run: whose load says how; it gets the rows, and how the client did.
        progress: is told of each end.
        max_in_flight: see `Drive.open_loop`.

    Raises:
        CancelledError: Ctrl-C; the run holds what there is so far.
    """
    start_s, cpu_s = time.monotonic(), time.process_time()
    one = Drive(client, progress, run)
    is_whole = False
    try:
        async with _watched(run):
            if run.load.concurrency is not None:
                await one.closed_loop(plan, run.load.concurrency)
            else:
                await one.open_loop(plan, max_in_flight)
        is_whole = True
    finally:
        took_s = time.monotonic() - start_s
        run.rows.sort(key=lambda row: row.index)
        run.duration_s = max((row.end_s for row in run.rows), default=took_s) if is_whole else took_s
        run.cpu_share = round((time.process_time() - cpu_s) / took_s, 4) if took_s else 0.0


@contextlib.asynccontextmanager
async def _watched(run: Run) -> AsyncIterator[None]:
    """Notice how late the event loop comes to a timer, all the while."""

    async def look() -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            run.max_lag_s = max(run.max_lag_s, round(time.monotonic() - before_s - _LOOK_S, 6))

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
