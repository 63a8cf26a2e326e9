"""The parts of `learnsgl bench online` that need no server: arrivals, prompts, plans, percentiles, tables, figure."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from learnsgl.bench.command import BENCHES
from learnsgl.bench.online.arrivals import Arrivals, arrival_times
from learnsgl.bench.online.client import Events
from learnsgl.bench.online.command import settings_of, without_secrets
from learnsgl.bench.online.plan import WARM_UP, FromFile, MadeUp, Planned, read_prompts
from learnsgl.bench.online.prompts import WORDS, IdsForm, WordsForm, calibrated
from learnsgl.bench.online.replayed import Replayed, read_rows
from learnsgl.bench.online.results import Limits, Load, OnlineResults, Outcome, Row, Run
from learnsgl.bench.online.settings import Endpoint, Settings
from learnsgl.bench.online.summary import Stats, stats, summarize
from learnsgl.bench.online.tables import online_tables
from learnsgl.cli import main, make_parser
from learnsgl.errors import FolderError, OptionError
from learnsgl.replay.workload import FORMAT, VERSION, Header, Shares
from learnsgl.replay.workload import Row as RecordedRow
from learnsgl.viz.online import online_latency
from learnsgl.viz.theme import DARK
from tests.viz.runs import texts_outside

RATE = Load(rate=10.0)


def args_of(*words: str) -> argparse.Namespace:
    return make_parser().parse_args(["bench", "online", *words])


def settings(*words: str) -> Settings:
    return settings_of(args_of(*words))


# ---------------------------------------------------------------- arrivals


@pytest.mark.parametrize(
    ("process", "burstiness", "variation"),
    [(Arrivals.POISSON, 9.0, 1.0), (Arrivals.GAMMA, 0.25, 2.0), (Arrivals.GAMMA, 4.0, 0.5), (Arrivals.CONSTANT, 1, 0)],
)
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_the_process(
    process: Arrivals, burstiness: float, variation: float
) -> None:
    times = arrival_times(process, 8.0, 40_001, burstiness=burstiness, rng=np.random.default_rng(1))
    gaps = np.diff(times)
    assert times[0] == 0
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05, abs=1e-9)


def test_arrivals_hang_on_the_seed_alone() -> None:
    def times(seed: int, rate: float | None, n: int = 5) -> list[float]:
        rng = np.random.default_rng(seed)
        return [float(t) for t in arrival_times(Arrivals.POISSON, rate, n, burstiness=1, rng=rng)]

    assert times(1, 2.0) == times(1, 2.0) != times(2, 2.0)
    assert times(1, 1.0) == pytest.approx([2 * time for time in times(1, 2.0)])
    assert times(1, None) == [0.0] * 5
    assert times(1, 2.0, 0) == []


# ---------------------------------------------------------------- prompts


def test_two_questions_tell_what_a_word_costs() -> None:
    form = calibrated((23 + 16, 23 + 80), (16, 80))
    assert form == WordsForm(1.0, 23.0)
    assert len(form.prompt([0] * form.num_symbols(100), 100).split()) == 77
    assert form.num_symbols(3) == 1
    assert calibrated((0, 0), (16, 80)) == WordsForm()


def test_on_a_byte_tokenizer_text_has_exactly_so_many_bytes() -> None:
    form = calibrated((4 + 16 * 5, 4 + 80 * 5), (16, 80))
    for length in (20, 21, 24, 25, 300):
        prompt = form.prompt([3] * form.num_symbols(length), length)
        assert len(prompt) + 4 == length
    assert {len(word) for word in WORDS} == {4}
    assert len(set(WORDS)) == len(WORDS)


def test_ids_lie_in_the_upper_part_of_the_vocabulary() -> None:
    form = IdsForm(260)
    assert form.prompt([0, form.alphabet - 1], 2) == [26, 259]


def test_made_up_prompts_have_their_lengths_and_are_new_in_every_run() -> None:
    made = MadeUp(settings("--input-len", "5:9", "--output-len", "2:4"), IdsForm(1000), 50)
    first, second, warm = (made.plan(RATE, number) for number in (0, 1, WARM_UP))
    assert first == made.plan(RATE, 0)
    assert {planned.num_tokens for planned in first} == {5, 6, 7, 8, 9}
    assert {planned.max_tokens for planned in first} == {2, 3, 4}
    assert all(len(planned.prompt) == planned.num_tokens for planned in first)
    prompts = [json.dumps(planned.prompt) for plan in (first, second, warm) for planned in plan]
    assert len(set(prompts)) == 150
    assert [planned.arrival_s for planned in first] == [planned.arrival_s for planned in second]
    assert made.text() == "50 random prompts of 5 to 9 tokens, answers of 2 to 4"


def test_prefixes_are_shared_and_what_follows_is_not() -> None:
    made = MadeUp(settings("--input-len", "8", "--prefix-len", "16", "--num-prefixes", "3"), IdsForm(1000), 40)
    plan = made.plan(RATE, 0)
    assert all(len(planned.prompt) == planned.num_tokens == 24 for planned in plan)
    assert len({tuple(planned.prompt[:16]) for planned in plan}) == 3
    assert len({tuple(planned.prompt[16:]) for planned in plan}) == 40
    assert "one of 3 prefixes of 16 tokens" in made.text()


def test_a_file_of_prompts_goes_on_from_run_to_run(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"one"\n\n{"prompt": [5, 6], "max_tokens": 3}\n{"prompt": "three"}\n')
    prompts = read_prompts(path, Endpoint.COMPLETIONS)
    given = settings("--prompts", str(path), "--rate", "1", "2", "--output-len", "9")
    source = FromFile(given, prompts, 2)
    runs = [source.plan(load, number) for number, load in enumerate(given.loads)]
    assert [[planned.prompt for planned in plan] for plan in runs] == [["one", [5, 6]], ["three", "one"]]
    assert [planned.max_tokens for planned in runs[0]] == [9, 3]
    assert "holds 3 prompts for 4 requests" in source.notes[0]


@pytest.mark.parametrize(
    ("line", "endpoint", "words"),
    [
        ("", "chat", "is empty"),
        ("{", "chat", "line 1: not a prompt"),
        ("{}", "chat", "exactly one of prompt and messages"),
        ('""', "chat", "not an empty one"),
        ('{"prompt": [1]}', "chat", "takes no token ids"),
        ('{"messages": [{}]}', "completions", "only a chat takes messages"),
        ('{"prompt": "a", "max_tokens": 0}', "chat", "at least 1"),
    ],
)
def test_a_bad_line_of_prompts_is_named(line: str, endpoint: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(OptionError, match=words):
        read_prompts(tmp_path / "p.jsonl", Endpoint(endpoint))


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"--prompts none\.jsonl can't be read"):
        read_prompts(tmp_path / "none.jsonl", Endpoint.CHAT)
    with pytest.raises(FolderError, match=r"--workload none\.jsonl can't be read"):
        read_rows(tmp_path / "none.jsonl")


# ---------------------------------------------------------------- a recorded workload


def recorded(index: int, arrival_s: float, prompt_len: int | None, **more: object) -> RecordedRow:
    fields = {
        "max_tokens": 50, "generated": 4, "stream": True, "ending": "length", "left_after_s": None, "shares": None,
        "group": 0,
    } | more  # fmt: skip
    return RecordedRow(index, index + 1, arrival_s, prompt_len, **fields)  # type: ignore[arg-type]


ROWS = [
    recorded(0, 0.0, 10, generated=6),
    recorded(1, 0.5, None, generated=0),
    recorded(2, 1.0, 12, shares=Shares(0, 7, 0), stream=False),
    recorded(3, 3.0, 20, shares=Shares(0, 14, 4), left_after_s=0.25, generated=2),
    recorded(4, 4.0, 8, shares=Shares(None, 5, 0)),
    recorded(5, 4.5, 9, shares=Shares(2, 9, 0)),
]


def common(one: Planned, other: Planned) -> int:
    return next((n for n, (a, b) in enumerate(zip(one.prompt, other.prompt, strict=False)) if a != b), -1)


@pytest.mark.parametrize("vocab_size", [10, 1000])
def test_prompts_share_what_the_recorded_ones_shared(vocab_size: int) -> None:
    source = Replayed(ROWS, "w.jsonl", IdsForm(vocab_size), seed=3)
    first, second, third, _, last = source.plan(Load(speed=2.0), 0)
    assert common(first, second) == 7
    assert common(first, third) == -1  # all ten of the prompt, then four of its answer
    assert len(third.prompt) == 20
    assert last.prompt == second.prompt[:9]
    assert source.plan(Load(speed=2.0), 1)[0].prompt != first.prompt


def test_arrivals_are_scaled_and_clients_leave_as_recorded() -> None:
    source = Replayed(ROWS, "w.jsonl", IdsForm(1000), seed=3)
    plan = source.plan(Load(speed=2.0), 0)
    assert [planned.arrival_s for planned in plan] == [0.0, 0.5, 1.5, 2.0, 2.25]
    assert [planned.leaves_after_s for planned in plan] == [None, None, 0.25, None, None]
    assert [planned.max_tokens for planned in plan] == [6, 4, 50, 4, 4]  # who left had asked for more
    assert [planned.stream for planned in plan] == [True, False, True, True, True]
    assert [note.split()[0] for note in source.notes] == ["1", "4", "1"]
    assert source.text() == "5 requests of w.jsonl"


def test_a_workload_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no request that had a prompt"):
        Replayed([recorded(0, 0.0, None)], "w.jsonl", IdsForm(1000), seed=0)
    head = Header(FORMAT, VERSION, 1, 0.0, 10, 4, 1, True)
    path = tmp_path / "w.jsonl"
    path.write_bytes(msgspec.json.encode(head) + b"\n" + msgspec.json.encode(ROWS[0]) + b"\n")
    assert read_rows(path) == [ROWS[0]]


# ---------------------------------------------------------------- sums


def row(index: int, intended: float, *, sent: float | None = None, first: float | None = None,
        last: float | None = None, end: float = 9.0, tokens: int = 1, outcome: Outcome = Outcome.DONE,
        status: int | None = 200, gaps: list[float] | None = None) -> Row:  # fmt: skip
    return Row(
        index=index, intended_s=intended, sent_s=intended if sent is None else sent, first_s=first, last_s=last,
        end_s=end, outcome=outcome, status=status, error="said" if outcome.is_error else "",
        planned_prompt_tokens=100, output_tokens=tokens, gaps_ms=gaps or [],
    )  # fmt: skip


MADE_UP = Run(
    load=RATE, num_planned=8, duration_s=10.0, cpu_share=0.75, max_lag_s=0.012,
    rows=[
        row(0, 0.0, first=0.1, last=0.3, end=0.3, tokens=5, gaps=[50, 50, 50, 50]),
        row(1, 1.0, sent=1.5, first=1.75, last=2.75, end=2.75, tokens=3, gaps=[500, 500]),
        row(2, 2.0, first=2.25, last=2.25, end=2.5, tokens=1),
        row(3, 3.0, end=4.0, tokens=7),
        row(4, 4.0, outcome=Outcome.STATUS, status=429),
        row(5, 5.0, outcome=Outcome.TIMEOUT, first=6.0, tokens=2),
        row(6, 6.0, outcome=Outcome.LEFT, first=6.5, tokens=9),
        row(7, 7.0, outcome=Outcome.STOPPED),
    ],
)  # fmt: skip


def test_percentiles_are_values_that_occurred() -> None:
    assert stats([]) is None
    assert stats([3.0]) == Stats(1, 3, 3, 3, 3, 3)
    assert stats(list(range(200, 0, -1))) == Stats(200, 100.5, 100, 180, 198, 200)


def test_a_run_is_summed_up_exactly() -> None:
    found = summarize(MADE_UP, Limits(ttft_ms=500, tpot_ms=100))
    assert (found.num_sent, found.num_done, found.num_left, found.num_stopped) == (8, 4, 1, 1)
    assert found.errors == {"HTTP 429": 1, "timeout": 1}
    assert (found.num_behind, found.max_behind_ms) == (1, 500)
    assert (found.requests_per_s, found.input_tokens_per_s, found.output_tokens_per_s) == (0.4, 40.0, 1.6)
    assert found.ttft is not None
    assert found.ttft[0] == 3
    assert found.ttft[2:] == pytest.approx((250, 750, 750, 750))  # the late one counts from its intended arrival
    assert found.tpot == pytest.approx((2, 275, 50, 500, 500, 500))
    assert found.itl == pytest.approx((6, 200, 50, 500, 500, 500))
    assert found.e2e is not None
    assert found.e2e[:3] == pytest.approx((4, 887.5, 500))
    assert (found.good_per_s, found.good_share) == (0.2, pytest.approx(2 / 6))  # 0 and 2; 3 has its first after 1 s


def test_without_limits_and_without_rows_there_is_no_goodput() -> None:
    empty = Run(load=RATE, num_planned=4, duration_s=0.0, cpu_share=0.0, max_lag_s=0.0, rows=[])
    found = summarize(empty, Limits(ttft_ms=1))
    assert (found.requests_per_s, found.good_per_s, found.good_share, found.ttft) == (0, 0, None, None)
    assert summarize(MADE_UP, Limits()).good_per_s is None


def results(*runs: Run, limits: Limits = Limits(500, 100)) -> OnlineResults:  # noqa: B008 - frozen
    return OnlineResults(model="m", workload="some prompts", limits=limits, notes=["A note."], runs=list(runs))


def test_the_tables_say_what_a_reader_must_know() -> None:
    load, latency, errors = online_tables(results(MADE_UP))
    assert load.rows[0] == ["10 req/s", "8", "4", "2", "1", "1", "0.40", "40", "2", "0.20", "33%", "75%"]
    for words in ("TTFT ≤ 500 ms and TPOT ≤ 100 ms", "500 ms at most", "more than 50% of a core", "A note."):
        assert words in load.note
    assert [line[1] for line in latency.rows] == ["TTFT", "TPOT", "ITL", "end to end"]
    assert errors.rows == [["10 req/s", "HTTP 429", "1", "said"], ["10 req/s", "timeout", "1", "said"]]
    done = msgspec.structs.replace(MADE_UP, rows=MADE_UP.rows[:1], cpu_share=0.1)
    quiet = online_tables(results(done, limits=Limits()))
    assert len(quiet) == 2
    assert quiet[0].note == "m: some prompts. A note."
    assert all(len(line) == len(table.heads) for table in (load, latency, errors, *quiet) for line in table.rows)


def test_results_come_back_from_json() -> None:
    given = results(MADE_UP, msgspec.structs.replace(MADE_UP, load=Load(is_burst_of_all=True)))
    assert msgspec.json.decode(msgspec.json.encode(given), type=OnlineResults) == given


def test_the_figure_shows_each_load_in_order() -> None:
    slow = msgspec.structs.replace(MADE_UP, load=Load(rate=2.0))
    all_at_once = msgspec.structs.replace(MADE_UP, load=Load(is_burst_of_all=True))
    for runs, words in (([MADE_UP, slow], ["2", "10"]), ([all_at_once, slow], ["2", "all at once"]), ([slow], ["2"])):
        figure, data = online_latency(results(*runs), theme=DARK)
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == words
        assert [one.load.value for one in data] == sorted(run.load.value for run in runs)
        assert figure.texts[0].get_text().startswith("Median TTFT 250 ms at 2 requests a second")
        assert not texts_outside(figure)
    failed = msgspec.structs.replace(MADE_UP, rows=MADE_UP.rows[4:5])
    figure, _ = online_latency(results(failed))
    assert figure.texts[0].get_text() == "No stream was answered at 1 load"
    with pytest.raises(OptionError, match="nothing to draw"):
        online_latency(results(msgspec.structs.replace(MADE_UP, rows=[])))


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rate 1 --concurrency 2", "--rate and --concurrency contradict each other"),
        ("--rate 0", "a number above 0"),
        ("--rate nan", "a number above 0"),
        ("--concurrency 0", "at least 1"),
        ("--speed 2", "--speed goes with --workload"),
        ("--workload w --num-requests 3", "--workload and --num-requests contradict"),
        ("--workload w --arrivals gamma", "--workload and --arrivals contradict"),
        ("--prompts p --prefix-len 3", "--prompts and --prefix-len contradict"),
        ("--concurrency 2 --max-in-flight 3", "--concurrency and --max-in-flight contradict"),
        ("--burstiness 2", "add --arrivals gamma"),
        ("--num-prefixes 2", "needs --prefix-len"),
        ("--url http://h --serve-options=--seed=1", "leave it or --url out"),
        ("--endpoint chat --prompt-form ids", "takes no token ids"),
        ("--vocab-size 3", "at least 10"),
        ("--figure f.gif", "ends with .png"),
        ("--figure none/f.png", "there is no folder"),
        ("--input-len 9:3", "--input-len is '9:3'"),
        ("--extra-body [1]", "give a JSON object"),
        ("--extra-body {", "no JSON"),
        ('--extra-body {"x":NaN}', "JSON has no NaN"),
        ("--temperature nan", "a number above 0"),
        ('--extra-body {"n":2}', "sets n, which"),
        ("--slo-ttft-ms -1", "above 0"),
        ("--plain-share 2", "a share from 0 to 1"),
        ("--plain-share some", "a share from 0 to 1"),
        ("--workload w --plain-share 0.5", "--workload and --plain-share contradict"),
        ("--probe health", "the path of a route"),
        ("--probe /a /b\nc", "the path of a route"),
        ("--url nonsense", "--url is 'nonsense'"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "online", *words.split(" ")]) == 2
    assert said in capsys.readouterr().err


def test_loads_and_defaults() -> None:
    assert [load.text() for load in settings().loads] == ["1 req/s", "2 req/s", "4 req/s"]
    assert settings().num_requests == 32
    assert [load.text() for load in settings("--rate", "0.5", "inf").loads] == ["0.5 req/s", "all at once"]
    assert [load.text() for load in settings("--concurrency", "8").loads] == ["8 at once"]
    replayed = settings("--workload", "folder/w.jsonl", "--speed", "0.5")
    assert (replayed.loads, replayed.num_requests, replayed.workload) == ([Load(speed=0.5)], None, "w.jsonl")
    assert math.isinf(Load(is_burst_of_all=True).value)


def test_keys_and_addresses_are_not_written_down() -> None:
    words = ["learnsgl", "--url", "http://h", "--api-key=abc", "--api-key", "abc", "--rate", "1", "--url=x"]
    shown = without_secrets(words)
    assert shown == ["learnsgl", "--url", "URL", "--api-key=KEY", "--api-key", "KEY", "--rate", "1", "--url=URL"]


def test_events_are_found_wherever_the_bytes_are_cut() -> None:
    data = 'data: {"a": "\u2028"}\r\n\r\n: ping\n\ndata:[DONE]\n\n'.encode()
    for size in (1, 2, 7, len(data)):
        events = Events()
        found = [one for at in range(0, len(data), size) for one in events.feed(data[at : at + size])]
        assert found == ['{"a": "\u2028"}'.encode(), b"[DONE]"]


def test_bench_all_and_the_page_leave_it_out() -> None:
    every = make_parser().parse_args(["bench", "all"])
    assert "online" not in every.parsers
    assert set(every.parsers) == set(BENCHES)
