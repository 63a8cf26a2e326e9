"""Messages, latencies, ledger, start-up and memory: the numbers behind these figures are those of the events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learnsgl.config import TraceLevel
from learnsgl.errors import OptionError, TraceError
from learnsgl.replay.ledger import Measure, ledger
from learnsgl.trace import events as ev
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from learnsgl.viz.latency import latency_distributions
from learnsgl.viz.ledger_bars import MAX_BARS, ledger_bars
from learnsgl.viz.life import life
from learnsgl.viz.memory_budget import memory_budget, read_memory_budget
from learnsgl.viz.message_sequence import MAX_LINES, message_sequence
from learnsgl.viz.page_map import read_page_map
from learnsgl.viz.sequence_data import LineKind, read_message_sequence
from learnsgl.viz.startup import read_startup, startup_gantt
from learnsgl.viz.words import duration, num_bytes
from tests.trace.story import UID, tell
from tests.viz.runs import scheduled, story_of, told, trace_of, words_of

MESSAGES = {"TokenizeMsg", "UserMsg", "DetokenizeMsg", "UserReply"}


def test_every_message_of_a_request_is_a_line(small: Trace) -> None:
    data = read_message_sequence(small)
    assert data.uid == UID
    assert data.lifelines == ("client", "api", "tokenizer-0", "scheduler-0", "device", "detokenizer")
    sent = [(line.text, line.source, line.target, line.start_ns, line.end_ns) for line in data.lines]
    assert sent[0] == ("HTTP completions", "client", "api", 100, 100)
    assert ("TokenizeMsg", "api", "tokenizer-0", 110, 120) in sent
    assert ("3 tokens", "tokenizer-0", "tokenizer-0", 121, 130) in sent
    assert ("step 1: prefill of 3 tokens", "device", "device", 195, 235) in sent
    assert sent[-1] == ("end of the answer", "api", "client", 401, 401)
    assert sum(text in MESSAGES for text, *_ in sent) == 6
    assert [line.start_ns for line in data.lines] == sorted(line.start_ns for line in data.lines)


def test_a_message_that_never_arrived_is_marked(tmp_path: Path) -> None:
    story = tell()
    story["detokenizer"] = [event for event in story["detokenizer"] if event.ns < 300]
    figure, data = message_sequence(trace_of(tmp_path, story))
    lost = [line for line in data.lines if line.kind is LineKind.LOST]
    assert [(line.text, line.source, line.target, line.start_ns) for line in lost] == [
        ("DetokenizeMsg", "scheduler-0", "detokenizer", 353)
    ]
    assert "1 whose arrival is not recorded" in words_of(figure)


def test_a_process_that_died_ends_its_lifeline(tmp_path: Path) -> None:
    story = tell()
    story["api"].insert(-1, ev.ProcessLost(450, "detokenizer", 103, -9))
    story["detokenizer"] = story["detokenizer"][:-1]
    figure, data = message_sequence(trace_of(tmp_path, story))
    (death,) = [line for line in data.lines if line.kind is LineKind.DEATH]
    assert (death.source, death.start_ns) == ("detokenizer", 450)
    assert "dies" in words_of(figure)


def test_long_conversations_are_cut_in_the_middle(shared_prefix: Trace) -> None:
    longest = max(requests(shared_prefix), key=lambda one: len(one.chunks_ns))
    figure, data = message_sequence(shared_prefix, uid=longest.key.uid)
    assert len(data.lines) > MAX_LINES
    assert f"{len(data.lines) - MAX_LINES:,} lines of" in words_of(figure)
    assert "end of the answer" in words_of(figure)


def test_a_window_shows_all_requests_in_it(shared_prefix: Trace) -> None:
    first = read_message_sequence(shared_prefix, uid=1).origin_ns
    data = read_message_sequence(shared_prefix, window_ns=(first, first + 300_000_000))
    assert data.uid is None
    assert {uid for line in data.lines for uid in line.uids} >= {1, 2}
    with pytest.raises(TraceError, match="nothing was sent or done between the moments"):
        read_message_sequence(shared_prefix, window_ns=(0, 1))


def test_an_unknown_request_is_an_error_that_lists_the_known(small: Trace) -> None:
    with pytest.raises(TraceError, match=r"no request 9 came in this recording; requests in it: 7"):
        message_sequence(small, uid=9)
    with pytest.raises(OptionError, match=r"request 9 is not in this recording"):
        ledger_bars(small, uids=[9])
    with pytest.raises(TraceError, match=r"not request 9"):
        life(small, uid=9)


def test_at_level_steps_the_missing_messages_are_said(tmp_path: Path) -> None:
    figure, _ = message_sequence(told(tmp_path, TraceLevel.STEPS))
    assert "Level steps records no messages between the processes." in words_of(figure)


def test_latencies_are_those_of_the_ledger(shared_prefix: Trace) -> None:
    _, (data,) = latency_distributions(shared_prefix)
    ledgers = [ledger(shared_prefix, life.key.uid) for life in requests(shared_prefix)]
    assert data.ttft_s.tolist() == pytest.approx(sorted(one.ttft_ns / 1e9 for one in ledgers if one.ttft_ns))
    assert len(data.gap_s) == sum(len(one.gaps) for one in ledgers)
    assert data.num_requests == len(ledgers)
    assert data.uses_commits == any(one.measured is Measure.COMMITS for one in ledgers)
    assert all((np.diff(values) >= 0).all() for values in (data.ttft_s, data.gap_s, data.tpot_s))


def test_two_recordings_are_compared_under_their_names(shared_prefix: Trace, first_request: Trace) -> None:
    figure, data = latency_distributions(shared_prefix, first_request)
    assert [one.name for one in data] == ["shared_prefix", "first_request"]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().splitlines()[0] for text in legend.get_texts()] == ["shared_prefix", "first_request"]
    title = figure.texts[0].get_text()
    assert title.startswith(f"Median TTFT and longest gap: {duration(float(np.median(data[0].ttft_s)) * 1e9)} and ")
    assert "(shared_prefix), " in title
    figure, _ = latency_distributions(shared_prefix, first_request, names=("many", "one"))
    assert f"many: {data[0].num_requests} requests" in words_of(figure)


@pytest.mark.parametrize(("num", "names"), [(0, None), (5, None), (1, ("a", "b"))])
def test_impossible_comparisons_are_refused(small: Trace, num: int, names: tuple[str, ...] | None) -> None:
    with pytest.raises(OptionError, match="give one to 4 recordings, and as many names or none"):
        latency_distributions(*[small] * num, names=names)


def test_bars_add_up_to_the_ledgers_time(shared_prefix: Trace) -> None:
    figure, data = ledger_bars(shared_prefix)
    assert [bar.name for bar in data.bars] == [f"request {life.key.uid}" for life in requests(shared_prefix)]
    for bar, one in zip(data.bars, data.ledgers, strict=True):
        assert sum(bar.ttft_ns.values()) == one.ttft_ns
        assert sum(bar.gap_ns.values()) * len(one.gaps) == pytest.approx(
            sum(part.duration_ns for gap in one.gaps for part in gap)
        )
    mean = sum(one.ttft_ns or 0 for one in data.ledgers) / len(data.ledgers)
    assert sum(data.mean.ttft_ns.values()) == pytest.approx(mean)
    widths = {round(sum(bar.get_width() for bar in figure.axes[0].patches if round(bar.get_y() + 0.37) == 1), 6)}
    assert widths == {round((data.ledgers[0].ttft_ns or 0) / 1e6, 6)}


def test_a_single_request_is_drawn_token_by_token(first_request: Trace) -> None:
    figure, data = ledger_bars(first_request)
    (axes,) = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["first token", *(f"gap {place}" for place in range(1, len(data.ledgers[0].gaps) + 1))]


def test_of_many_requests_the_slowest_are_shown(many: Trace) -> None:
    figure, data = ledger_bars(many)
    assert (len(data.bars), len(data.ledgers)) == (MAX_BARS, 256)
    shown = [sum(bar.ttft_ns.values()) for bar in data.bars]
    assert sorted(shown) == sorted(one.ttft_ns or 0 for one in data.ledgers)[-MAX_BARS:]
    assert f"The {MAX_BARS} requests with the longest time to first token, of 256" in words_of(figure)


def test_startup_holds_phases_and_acknowledgements(first_request: Trace) -> None:
    data = read_startup(first_request)
    assert {one.process for one in data.processes} == {"api", "scheduler-0", "tokenizer-0", "detokenizer"}
    assert data.processes[0].process == "api"
    assert data.slowest is not None
    assert data.slowest.process == "scheduler-0"
    assert [phase.name for phase in data.slowest.phases] == [
        "start_process", "imports", "import_engine", "load_weights", "allocate_kv", "warm_up",
    ]  # fmt: skip
    assert all(one.acked_ns is not None and one.ready_ns is not None for one in data.processes[1:])
    assert data.serving_ns == data.end_ns
    figure, _ = startup_gantt(first_request)
    title = figure.texts[0].get_text()
    total = duration(data.end_ns - data.origin_ns)
    assert title.startswith(f"The server listens after {total}; the last to be ready is scheduler-0 (")
    assert words_of(figure).count("is ready") == 3


def test_a_worker_that_dies_at_the_start_is_shown(tmp_path: Path) -> None:
    story = tell()
    story["api"] = [
        *story["api"][:2],
        ev.ProcessSpawned(10, "scheduler-0", 102),
        ev.ProcessPhase(12, "resolve_model", 7),
        ev.ProcessLost(25, "scheduler-0", 102, -9),
        ev.ProcessEnded(30),
    ]
    story = {"api": story["api"], "scheduler-0": story["scheduler-0"][:2]}
    figure, data = startup_gantt(trace_of(tmp_path, story))
    assert data.serving_ns is None
    assert figure.texts[0].get_text().startswith("The start-up never ended")
    assert "scheduler-0 died before it was ready." in words_of(figure)


def test_the_budget_is_what_the_engine_said(first_request: Trace) -> None:
    figure, data = memory_budget(first_request)
    said = first_request.manifest["engine"]["memory"]
    wanted = (("weights", said["weights"]), ("workspace", said["workspace"]), ("KV pages", said["kv_pages"]))
    assert data.parts == wanted
    assert data.available_bytes == said["available_before"]
    assert data.left_bytes == data.available_bytes - sum(size for _, size in data.parts)
    assert (data.token_bytes, data.capacity_tokens) == (said["page"], first_request.manifest["engine"]["num_pages"])
    assert data.most_pages_held == read_page_map(first_request).fullest[1]
    assert f"a token's KV costs {num_bytes(said['page'])}" in words_of(figure)


def test_an_engine_that_says_nothing_of_its_memory_is_drawn_with_that_said(tmp_path: Path) -> None:
    recorded = [
        ev.EngineReady(0, "fake", "fake", "none", 64, 1, 64, 8, {}) if isinstance(event, ev.EngineReady) else event
        for event in scheduled(2)
    ]
    trace = trace_of(tmp_path, story_of(recorded))
    figure, data = memory_budget(trace)
    assert (data.parts, data.token_bytes, data.left_bytes) == ((), None, None)
    assert "the engine did not say what its memory was used for" in words_of(figure)


def test_pages_larger_than_a_token_share_their_cost(tmp_path: Path) -> None:
    data = read_memory_budget(trace_of(tmp_path, story_of(scheduled(2, num_pages=32, page_size=4))))
    assert data.page_bytes == 4 * (data.token_bytes or 0)
    assert data.capacity_tokens == 128
