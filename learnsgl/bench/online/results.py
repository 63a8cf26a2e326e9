"""What a load on a server gave: a row for each request, a run for each load of a sweep, and nothing summed up.

`client.py` makes the rows and `measure.py` the runs; `summary.py` computes percentiles from them. The report of
`learnsgl bench online --out` holds exactly this, so that every figure can be computed again, and others too.
"""

from __future__ import annotations

import time
from enum import StrEnum

import msgspec

BUSY_SHARE = 0.5
"""Of a core. Above this the client's own work begins to show in what it measures."""
_MIN_JUDGED_S = 0.5
"""A run that is shorter is all start-up, and its share of a core says nothing."""


class Outcome(StrEnum):
    """How a request ended, as its client sees it."""

    DONE = "done"
    LEFT = "left"
    """The client went away, since the workload says so."""
    STOPPED = "stopped"
    """Ctrl-C ended the benchmark while it ran."""
    UNREACHABLE = "unreachable"
    """No connection could be made."""
    TIMEOUT = "timeout"
    STATUS = "status"
    """The server answered with an HTTP status of 400 or above."""
    BROKEN_OFF = "broken-off"
    """The connection broke, or the stream ended before the answer did."""
    ERROR_EVENT = "error-event"
    """The stream held an error."""
    MALFORMED = "malformed"
    """The answer isn't what the API says."""

    @property
    def is_error(self) -> bool:
        """Whether it is the server's failure, or the network's."""
        return self not in (Outcome.DONE, Outcome.LEFT, Outcome.STOPPED)


def seconds_since(start_s: float) -> float:
    """From a moment on `time.monotonic` until now, to the microsecond: nobody measures finer through a socket."""
    return round(time.monotonic() - start_s, 6)


class Row(msgspec.Struct, kw_only=True):
    """One request. Times are seconds since the run began.

    Attributes:
        index: its place in the run, from 0.
        intended_s: when it was to be sent: its arrival in an open loop, and in a closed loop the moment at which the
            client was free for it. All latencies count from here.
        sent_s: when it was sent.
        first_s: when its first text came; `None` where none came, or where no stream was asked for.
        last_s: when its last text came; likewise.
        end_s: when its answer was complete, or it failed, or its client left.
        outcome: how it ended.
        status: the HTTP status, where there was one.
        error: what the server or the network said, where it failed.
        stream: whether a stream was asked for.
        planned_prompt_tokens: as the workload has it; `None` where it has text of unknown length.
        prompt_tokens: as the server counted them; `None` where it didn't tell.
        max_tokens: how many were asked for; `None` where the server chose.
        output_tokens: tokens of the answer, as the server counted them, or else the pieces of text that came.
        counted_by_server: whether `output_tokens` is the server's count.
        gaps_ms: milliseconds between each two pieces of text that followed each other. A piece is a token, or
            several where the server, the network or this client joined them.
    """

    index: int
    intended_s: float
    sent_s: float
    first_s: float | None = None
    last_s: float | None = None
    end_s: float = 0.0
    outcome: Outcome = Outcome.DONE
    status: int | None = None
    error: str = ""
    stream: bool = True
    planned_prompt_tokens: int | None = None
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    output_tokens: int = 0
    counted_by_server: bool = False
    gaps_ms: list[float] = msgspec.field(default_factory=list)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, from the intended arrival."""
        return None if self.first_s is None else self.first_s - self.intended_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of an output token after the first; `None` with fewer than two tokens."""
        if self.first_s is None or self.last_s is None or self.output_tokens < 2 or self.last_s == self.first_s:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """From the intended arrival to the end."""
        return self.end_s - self.intended_s

    @property
    def behind_s(self) -> float:
        """How long after its intended arrival it was sent."""
        return self.sent_s - self.intended_s


class Probe(msgspec.Struct, frozen=True):
    """One question to a small route while the load ran.

    Attributes:
        path: the route.
        intended_s: when it was to be asked, in seconds since the first of them. One that had to wait for the one before
            it counts from here, too.
        ms: milliseconds from then until its answer was there.
        status: of the answer; `None` where none came.
    """

    path: str
    intended_s: float
    ms: float
    status: int | None

    @property
    def is_answered(self) -> bool:
        """Whether it got what it asked for."""
        return self.status is not None and self.status < 400


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One load of a sweep; exactly one of the first three is set, or `is_burst_of_all`.

    Attributes:
        rate: requests a second of an open loop.
        concurrency: requests at once of a closed loop.
        speed: of a replayed workload; 2 lets requests arrive in half the time.
        is_burst_of_all: all requests arrive at once (`--rate inf`).
    """

    rate: float | None = None
    concurrency: int | None = None
    speed: float | None = None
    is_burst_of_all: bool = False

    @property
    def axis(self) -> str:
        """What is varied, with its unit."""
        if self.concurrency is not None:
            return "requests at once"
        return "speed of the workload" if self.speed is not None else "requests a second"

    @property
    def value(self) -> float:
        """The number on that axis; infinity where all arrive at once."""
        given = [number for number in (self.rate, self.concurrency, self.speed) if number is not None]
        return float(given[0]) if given else float("inf")

    def text(self) -> str:
        """For tables: `4 req/s`, `16 at once`, `speed 2`."""
        if self.is_burst_of_all:
            return "all at once"
        if self.concurrency is not None:
            return f"{self.concurrency} at once"
        return f"{self.value:g} req/s" if self.rate is not None else f"speed {self.value:g}"


class Run(msgspec.Struct, kw_only=True):
    """One load.

    Attributes:
        load: how much.
        num_planned: requests that the workload has.
        duration_s: from the start until the last request had ended, or Ctrl-C came.
        cpu_share: CPU time of this client's process over the duration: 1 is one core, and all that Python can use.
        max_lag_s: longest time by which the client's event loop came late to a timer; latencies are at most so wrong.
        rows: the requests that were sent, in the order of the workload.
        probes: questions to small routes meanwhile.
    """

    load: Load
    num_planned: int
    duration_s: float
    cpu_share: float
    max_lag_s: float
    rows: list[Row]
    probes: list[Probe] = msgspec.field(default_factory=list)

    @property
    def is_client_busy(self) -> bool:
        """Whether this client's own work may show in the latencies."""
        return self.cpu_share > BUSY_SHARE and self.duration_s >= _MIN_JUDGED_S


class Limits(msgspec.Struct, frozen=True):
    """What a client can bear; requests within both count as good.

    Attributes:
        ttft_ms: longest time to first token; `None` for none.
        tpot_ms: longest time of an output token after the first; likewise.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is any."""
        return self.ttft_ms is not None or self.tpot_ms is not None

    def text(self) -> str:
        """For tables."""
        parts = [("TTFT", self.ttft_ms), ("TPOT", self.tpot_ms)]
        return " and ".join(f"{name} ≤ {value:g} ms" for name, value in parts if value is not None)


class OnlineResults(msgspec.Struct, kw_only=True):
    """A whole sweep.

    Attributes:
        model: as the server calls it.
        workload: what was asked, in words.
        limits: for goodput.
        notes: what a reader must know, such as what couldn't be replayed.
        runs: one a load.
        was_interrupted: whether Ctrl-C ended it early.
    """

    model: str
    workload: str
    limits: Limits
    notes: list[str]
    runs: list[Run]
    was_interrupted: bool = False
