"""What the server counts and measures while it runs, for `/metrics`: plain numbers, kept by the API process.

`http_trace.py` tells of requests as they come and end, with the moments that the trace has; `requests.py` tells of
tokens, and passes on what the scheduler says of itself with its replies. `metrics_page.py` makes the page.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.types import Ending, SchedulerStats

NS = 1e-9
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
REQUEST_S = (
    0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Histogram:
    """How many values were at most so large, and their sum.

    Args:
        bounds: upper ends of the buckets, ascending; a last one without an end follows.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Add a value, as often as said."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


@dataclass(slots=True)
class _Times:
    """The moments of an answer that has not ended, on `time.monotonic_ns`."""

    received_ns: int
    first_ns: int = 0
    last_ns: int = 0
    num_tokens: int = 0


class ServerMetrics:
    """All numbers since the server's start.

    Attributes:
        scheduler: what the scheduler last told of itself.
        received: prompts that were taken, by route.
        refused: HTTP requests that were answered with an error before they had an id, by status and code.
        ended: answers by why they ended.
        failed: answers that ended with an error's code, by status and code.
        first_token_s: seconds from a request's arrival until the first token of each of its answers was here.
        between_tokens_s: seconds from each token of an answer to the next.
        per_token_s: their mean in each answer of at least two tokens.
        decode_s: seconds from the first token of each answer that has one to its last.
        request_s: seconds from a request's arrival to the end of each of its answers.
        prompt_tokens, generated_tokens: tokens of the prompt and of the answer, of each answer that ended.
    """

    def __init__(self) -> None:
        self.scheduler = SchedulerStats()
        self.received: Counter[str] = Counter()
        self.refused: Counter[tuple[int, str]] = Counter()
        self.ended: Counter[FinishReason] = Counter(dict.fromkeys(FinishReason, 0))
        self.failed: Counter[tuple[int, str]] = Counter()
        self.first_token_s = Histogram(FIRST_TOKEN_S)
        self.between_tokens_s = Histogram(TOKEN_S)
        self.per_token_s = Histogram(TOKEN_S)
        self.decode_s = Histogram(REQUEST_S)
        self.request_s = Histogram(REQUEST_S)
        self.prompt_tokens = Histogram(TOKENS)
        self.generated_tokens = Histogram(TOKENS)
        self._open: dict[ReqKey, _Times] = {}

    @property
    def num_open(self) -> int:
        """Answers that have not ended."""
        return len(self._open)

    def on_received(self, now_ns: int, uid: int, route: str, num_choices: int) -> None:
        """A prompt was taken, and wants so many answers."""
        self.received[route] += 1
        for choice in range(num_choices):
            self._open[ReqKey(uid, choice)] = _Times(now_ns)

    def on_tokens(self, now_ns: int, key: ReqKey, num_tokens: int) -> None:
        """Tokens of an answer are here; of several at once, each is taken to have needed the same time."""
        times = self._open.get(key)
        if times is None:
            return
        num_later = num_tokens
        if not times.num_tokens:
            times.first_ns = times.last_ns = now_ns
            self.first_token_s.observe((now_ns - times.received_ns) * NS)
            num_later -= 1
        if num_later:
            self.between_tokens_s.observe((now_ns - times.last_ns) * NS / num_later, num_later)
        times.last_ns = now_ns
        times.num_tokens += num_tokens

    def on_ended(self, now_ns: int, ending: Ending, reason: FinishReason, status: int, code: str | None) -> float:
        """An answer has ended, as its client sees it. Returns how many seconds it took."""
        self.ended[reason] += 1
        if code is not None:
            self.failed[status, code] += 1
        self.prompt_tokens.observe(ending.num_prompt_tokens)
        self.generated_tokens.observe(ending.num_generated_tokens)
        times = self._open.pop(ReqKey(ending.uid, ending.choice), None)
        if times is None:
            return 0.0
        seconds = (now_ns - times.received_ns) * NS
        self.request_s.observe(seconds)
        if times.num_tokens:
            self.decode_s.observe((times.last_ns - times.first_ns) * NS)
        if times.num_tokens > 1:
            self.per_token_s.observe((times.last_ns - times.first_ns) * NS / (times.num_tokens - 1))
        return seconds
