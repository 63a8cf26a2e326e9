"""The page at `/metrics`, in the formats of Prometheus: each number under the names that dashboards look for.

`operator_routes.py` calls `MetricsPage.render`. What a name of vLLM's or SGLang's means here stands in
docs/metrics.md; numbers for which neither has a name begin with `learnsgl:`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from learnsgl.core import FinishReason
from learnsgl.server.metrics import Histogram, ServerMetrics

_LABEL = "model_name"


class MetricsPage(Collector):
    """Writes the numbers down when someone asks; between two visits it costs nothing.

    Args:
        metrics: the numbers.
        model: the model's name, which every number is labelled with.
        num_pages: pages of KV cache.
        page_size: tokens a page.
    """

    def __init__(self, metrics: ServerMetrics, model: str, num_pages: int, page_size: int) -> None:
        self._metrics = metrics
        self._model = model
        self._num_pages = num_pages
        self._page_size = page_size
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page in the format that a request's `Accept` asks for, and its media type."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Every metric, as `prometheus_client` asks for it."""
        yield from self._load()
        yield from self._tokens()
        yield from self._times()
        yield from self._endings()

    def _load(self) -> Iterator[Metric]:
        told = self._metrics.scheduler
        yield from self._gauge(told.num_running, "requests that run", "vllm:num_requests_running",
                               "sglang:num_running_reqs")  # fmt: skip
        yield from self._gauge(told.num_waiting, "requests that wait in the scheduler's queue",
                               "vllm:num_requests_waiting", "sglang:num_queue_reqs")  # fmt: skip
        num_held = self._num_pages - told.num_free_pages - told.num_evictable_pages if told.step else 0
        share = num_held / self._num_pages
        yield from self._gauge(share, "share of the pages of KV cache that requests hold, 0 to 1",
                               "vllm:kv_cache_usage_perc", "sglang:token_usage")  # fmt: skip
        yield from self._gauge(num_held * self._page_size, "tokens that these pages have room for",
                               "sglang:num_used_tokens")  # fmt: skip
        yield from self._gauge(self._num_pages, "pages of KV cache", "learnsgl:num_pages")
        yield from self._gauge(
            told.num_evictable_pages, "pages that only the prefix cache holds", "learnsgl:num_cached_pages"
        )
        yield from self._counter(told.step, "steps of the scheduler", "learnsgl:steps")

    def _tokens(self) -> Iterator[Metric]:
        told = self._metrics.scheduler
        yield from self._counter(told.num_prompt_tokens, "tokens of prompts that began to run, cached ones among them",
                                 "vllm:prompt_tokens", "sglang:prompt_tokens", "vllm:prefix_cache_queries")  # fmt: skip
        yield from self._counter(told.num_cached_tokens, "of these, tokens whose KV was in the prefix cache",
                                 "vllm:prefix_cache_hits", "sglang:cached_tokens")  # fmt: skip
        rate = told.num_cached_tokens / told.num_prompt_tokens if told.num_prompt_tokens else 0.0
        yield from self._gauge(rate, "cached tokens a token of the prompts, since the start", "sglang:cache_hit_rate")
        yield from self._counter(told.num_generated_tokens, "tokens that were generated", "vllm:generation_tokens",
                                 "sglang:generation_tokens")  # fmt: skip

    def _times(self) -> Iterator[Metric]:
        seen = self._metrics
        yield from self._histogram(seen.first_token_s, "seconds from a request's arrival to its first token",
                                   "vllm:time_to_first_token_seconds",
                                   "sglang:time_to_first_token_seconds")  # fmt: skip
        yield from self._histogram(seen.between_tokens_s, "seconds from a token to the next",
                                   "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds",
                                   "sglang:inter_token_latency_seconds")  # fmt: skip
        yield from self._histogram(seen.per_token_s, "seconds from a token to the next, the mean of an answer",
                                   "vllm:request_time_per_output_token_seconds")  # fmt: skip
        yield from self._histogram(seen.decode_s, "seconds from an answer's first token to its last",
                                   "vllm:request_decode_time_seconds")  # fmt: skip
        yield from self._histogram(seen.request_s, "seconds from a request's arrival to its end",
                                   "vllm:e2e_request_latency_seconds",
                                   "sglang:e2e_request_latency_seconds")  # fmt: skip
        yield from self._histogram(seen.prompt_tokens, "tokens of a prompt", "vllm:request_prompt_tokens")
        yield from self._histogram(seen.generated_tokens, "tokens of an answer", "vllm:request_generation_tokens")

    def _endings(self) -> Iterator[Metric]:
        seen = self._metrics
        ended = CounterMetricFamily("vllm:request_success", "answers that ended", labels=[_LABEL, "finished_reason"])
        for reason, count in sorted(seen.ended.items()):
            ended.add_metric([self._model, reason.value], count)
        yield ended
        yield from self._counter(seen.ended.total(), "answers that ended", "sglang:num_requests")
        yield from self._counter(
            seen.ended[FinishReason.ABORT], "answers that were aborted", "sglang:num_aborted_requests"
        )
        received = CounterMetricFamily("learnsgl:prompts_received", "prompts that were taken", labels=[_LABEL, "route"])
        for route, count in sorted(seen.received.items()):
            received.add_metric([self._model, route], count)
        yield received
        errors = CounterMetricFamily(
            "learnsgl:errors", "requests that were refused, and answers that failed", labels=[_LABEL, "status", "code"]
        )
        for (status, code), count in sorted((seen.refused + seen.failed).items()):
            errors.add_metric([self._model, str(status), code], count)
        yield errors

    def _gauge(self, value: float, meaning: str, *names: str) -> Iterator[Metric]:
        for name in names:
            family = GaugeMetricFamily(name, meaning, labels=[_LABEL])
            family.add_metric([self._model], value)
            yield family

    def _counter(self, value: float, meaning: str, *names: str) -> Iterator[Metric]:
        for name in names:
            family = CounterMetricFamily(name, meaning, labels=[_LABEL])
            family.add_metric([self._model], value)
            yield family

    def _histogram(self, values: Histogram, meaning: str, *names: str) -> Iterator[Metric]:
        for name in names:
            family = HistogramMetricFamily(name, meaning, labels=[_LABEL])
            family.add_metric([self._model], _cumulative(values), values.total)
            yield family


def _cumulative(values: Histogram) -> Sequence[tuple[str, float]]:
    """Upper ends of the buckets as text, with how many values were at most so large."""
    found, count = [], 0
    for bound, more in zip((*values.bounds, float("inf")), values.counts, strict=True):
        count += more
        found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(count)))
    return found
