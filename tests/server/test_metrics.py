"""`/metrics`: it says what the trace of the same run says, under the names that docs/metrics.md tells."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from learnsgl.core import FinishReason, ReqKey
from learnsgl.message.types import Ending, SchedulerStats
from learnsgl.server.metrics import Histogram, ServerMetrics
from learnsgl.server.metrics_page import MetricsPage
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from tests.server.conftest import Starter, check_trace
from tests.server.running import MODEL, RunningServer

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
Kind = TypeVar("Kind", bound=events.Event)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Every number by its name and its labels, the model's name aside."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "model_name")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(server: RunningServer) -> dict[tuple[str, ...], float]:
    """The metrics of an idle server, once the scheduler's last word is there."""
    with server.http() as client:
        for _ in range(200):
            found = samples(client.get("/metrics").text)
            if not found["vllm:num_requests_running",] and not found["vllm:num_requests_waiting",]:
                return found
            time.sleep(0.02)
    raise AssertionError("the server says that it isn't idle")


def of_kind(trace: Trace, kind: type[Kind]) -> list[Kind]:
    return [entry.event for entry in trace.events() if isinstance(entry.event, kind)]


def use(server: RunningServer) -> None:
    """Answers, errors, a refusal, an abort and a shared prefix."""
    with server.http() as client, ThreadPoolExecutor(8) as pool:

        def ask(**fields: Any) -> Any:
            return client.post("/v1/completions", json={"model": MODEL, "prompt": "ABCDEFGH", "max_tokens": 9} | fields)

        for future in [pool.submit(ask, n=1 + index % 3, stream=index % 2 == 0) for index in range(12)]:
            assert future.result().is_success
        assert ask(stop="FG").json()["choices"][0]["finish_reason"] == "stop"
        assert ask(prompt="A" * 300).status_code == 400
        assert ask(temprature=1).status_code == 400
        assert ask(model="other").status_code == 404
        long = pool.submit(ask, prompt="Z", max_tokens=250)
        while not samples(client.get("/metrics").text)["vllm:num_requests_running",]:
            time.sleep(0.005)
        client.post("/abort_request", json={"abort_all": True})
        assert long.result().is_success


def test_the_metrics_say_what_the_trace_says(start: Starter) -> None:
    server = start("--num-tokenizer", "0", "--seed", "5")
    use(server)
    found = scraped(server)
    server.process.terminate()
    assert server.wait() == 0
    trace = check_trace(server)
    ended, received = of_kind(trace, events.ReqEnded), of_kind(trace, events.HttpReceived)
    reasons = Counter(event.reason for event in ended)
    assert reasons.keys() == {"length", "stop", "abort", "error"}
    for reason in FinishReason:
        assert found["vllm:request_success_total", reason.value] == reasons[reason.value]
    assert found["sglang:num_requests_total",] == len(ended)
    assert found["sglang:num_aborted_requests_total",] == reasons["abort"]
    errors = Counter((event.code, str(event.status)) for event in of_kind(trace, events.HttpRefused))
    errors += Counter((event.code, str(event.status)) for event in ended if event.code is not None)
    assert {labels[1:]: n for labels, n in found.items() if labels[0] == "learnsgl:errors_total"} == errors
    assert errors["context_length_exceeded", "400"] == errors["model_not_found", "404"] == 1
    assert found["learnsgl:prompts_received_total", "/v1/completions"] == len(received)
    check_scheduler(found, trace)
    check_times(found, ended, received)


def check_scheduler(found: dict[tuple[str, ...], float], trace: Trace) -> None:
    """The scheduler's own counts."""
    cached = sum(int(np.frombuffer(e.cached_lens, "<i4").sum()) for e in of_kind(trace, events.SchedAdmitted))
    assert found["vllm:prefix_cache_hits_total",] == cached > 0
    lens = {ReqKey(e.uid, e.choice): e.prompt_len for e in of_kind(trace, events.ReqQueued)}
    admitted = [key for event in of_kind(trace, events.SchedAdmitted) for key in keys(event)]
    num_prompt = sum(lens[key] for key in admitted)
    assert found["vllm:prompt_tokens_total",] == found["vllm:prefix_cache_queries_total",] == num_prompt
    assert found["sglang:cache_hit_rate",] == pytest.approx(cached / num_prompt)
    kept = sum(int(np.frombuffer(e.kept, "u1").sum()) for e in of_kind(trace, events.SchedCommitted))
    assert found["vllm:generation_tokens_total",] == found["sglang:generation_tokens_total",] == kept
    assert found["learnsgl:steps_total",] == max(event.step for event in of_kind(trace, events.SchedStep))
    assert found["vllm:kv_cache_usage_perc",] == found["sglang:num_used_tokens",] == 0, "nothing runs"
    assert found["learnsgl:num_pages",] == 4096
    assert found["learnsgl:num_cached_pages",] > 0


def check_times(
    found: dict[tuple[str, ...], float], ended: list[events.ReqEnded], received: list[events.HttpReceived]
) -> None:
    """What the API process measures."""
    came = {event.uid: event.ns for event in received}
    total = sum(event.ns - came[event.uid] for event in ended) / 1e9
    assert found["vllm:e2e_request_latency_seconds_count",] == len(ended)
    assert found["vllm:e2e_request_latency_seconds_sum",] == pytest.approx(total, abs=1e-6)
    with_tokens = [event for event in ended if event.completion_tokens]
    assert found["vllm:time_to_first_token_seconds_count",] == len(with_tokens)
    assert found["vllm:request_generation_tokens_sum",] == sum(event.completion_tokens for event in ended)
    num_gaps = found["vllm:inter_token_latency_seconds_count",]
    assert num_gaps == sum(event.completion_tokens - 1 for event in with_tokens)
    parts = found["vllm:time_to_first_token_seconds_sum",] + found["vllm:inter_token_latency_seconds_sum",]
    assert 0 < parts <= total
    assert found["vllm:inter_token_latency_seconds_bucket", "+Inf"] == num_gaps


def keys(event: events.SchedAdmitted) -> Iterator[ReqKey]:
    uids, choices = np.frombuffer(event.uids, "<i8"), np.frombuffer(event.choices, "<i4")
    return (ReqKey(uid, choice) for uid, choice in zip(uids.tolist(), choices.tolist(), strict=True))


def filled_page() -> MetricsPage:
    metrics = ServerMetrics()
    metrics.on_received(0, 1, "/generate", 2)
    metrics.on_tokens(2_000_000_000, ReqKey(1, 0), 1)
    metrics.on_tokens(5_000_000_000, ReqKey(1, 0), 3)
    metrics.on_ended(6_000_000_000, Ending(1, 0, FinishReason.STOP, 5, 0, 4), FinishReason.STOP, 200, None)
    metrics.refused[400, "invalid_json"] += 1
    metrics.scheduler = SchedulerStats(3, 1, 2, 30, 10, 20, 5, 7)
    assert metrics.num_open == 1
    return MetricsPage(metrics, "a", 64, 2)


def test_the_numbers_of_a_page() -> None:
    body, media_type = filled_page().render("")
    found = samples(body.decode())
    assert media_type.startswith("text/plain")
    assert found["vllm:time_to_first_token_seconds_sum",] == 2
    assert found["vllm:inter_token_latency_seconds_count",] == 3, "tokens that come together share the time"
    assert found["sglang:inter_token_latency_seconds_sum",] == 3
    assert found["vllm:inter_token_latency_seconds_bucket", "0.75"] == 0
    assert found["vllm:inter_token_latency_seconds_bucket", "1.0"] == 3
    assert found["vllm:request_time_per_output_token_seconds_sum",] == 1
    assert found["vllm:num_requests_waiting",] == found["sglang:num_queue_reqs",] == 2
    assert found["vllm:kv_cache_usage_perc",] == 24 / 64
    assert found["sglang:num_used_tokens",] == 48
    assert found["sglang:cache_hit_rate",] == 0.25


def test_openmetrics_is_given_to_who_asks_for_it() -> None:
    body, media_type = filled_page().render("application/openmetrics-text; version=1.0.0")
    assert media_type.startswith("application/openmetrics-text")
    assert {family.name for family in read_openmetrics(body.decode())}


def test_every_metric_is_documented() -> None:
    families = {family.name: family.type for family in filled_page().collect()}
    told = dict(re.findall(r"^\| `([a-z]+:\w+)` \| (gauge|counter|histogram) \|", PAGE, re.MULTILINE))
    assert told == {name + ("_total" if kind == "counter" else ""): kind for name, kind in families.items()}


def test_the_panels_of_other_dashboards_are_filled_where_the_page_says_so() -> None:
    told = {family.name + ("_total" if family.type == "counter" else "") for family in filled_page().collect()}
    panels = re.findall(r"^\| [^|]+ \| ([^|]*`(?:vllm|sglang):[^|]+) \| (filled|empty)", PAGE, re.MULTILINE)
    assert len(panels) > 8
    for asked, what in panels:
        names = set(re.findall(r"`((?:vllm|sglang):\w+)`", asked))
        assert names <= told if what == "filled" else not names & told, (names, what)


def test_a_value_on_a_bound_is_below_it() -> None:
    histogram = Histogram([1, 2])
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert (histogram.counts, histogram.count, histogram.total) == ([2, 2, 1], 5, 8)
