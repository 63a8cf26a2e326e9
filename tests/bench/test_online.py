"""`learnsgl bench online` against a server that answers as it is told, and against a real one on the tiny model."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from learnsgl.bench.online.results import OnlineResults, Outcome, Row
from learnsgl.bench.online.summary import error_kind
from learnsgl.bench.report import read_report
from learnsgl.cli import main
from learnsgl.replay.workload import FORMAT, VERSION, Header, Shares
from learnsgl.replay.workload import Row as RecordedRow
from tests.bench.online_server import OVERHEAD, PER_WORD, FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


def measured(folder: Path, *words: str, code: int = 0) -> OnlineResults:
    """Run the command; what its report holds."""
    assert main(["bench", "online", *words, "--out", str(folder)]) == code
    return msgspec.convert(read_report(folder / "online.json").results, OnlineResults)


def against(server: FakeServer, text: str) -> list[str]:
    return ["--url", server.url, *text.split()]


def outcomes(rows: list[Row]) -> list[str]:
    return [error_kind(row) for row in rows]


def most_at_once(rows: list[Row]) -> int:
    """Most requests that ran at one moment."""
    moments = sorted([(row.sent_s, 1) for row in rows] + [(row.end_s, -1) for row in rows])
    return max(itertools.accumulate(change for _, change in moments))


def test_a_closed_loop_keeps_so_many_requests_running(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.delay_s = 0.002
    results = measured(
        tmp_path, *against(server, "--concurrency 1 3 --num-requests 6 --input-len 5 --output-len 4 --warm-up 2")
    )
    assert [(run.load.concurrency, len(run.rows), run.num_planned) for run in results.runs] == [(1, 6, 6), (3, 6, 6)]
    one, three = (run.rows for run in results.runs)
    assert [most_at_once(rows) for rows in (one, three)] == [1, 3]
    assert all(before.end_s <= after.sent_s for before, after in itertools.pairwise(one))
    assert [row.index for row in three] == list(range(6))
    for row in [*one, *three]:
        assert (row.outcome, row.status, row.prompt_tokens, row.output_tokens) == (Outcome.DONE, 200, 5, 4)
        assert row.counted_by_server
        assert len(row.gaps_ms) == 3
        assert row.first_s is not None
        assert row.last_s is not None
        assert row.sent_s <= row.first_s < row.last_s <= row.end_s
        assert sum(row.gaps_ms) == pytest.approx(1e3 * (row.last_s - row.first_s), abs=0.01)
        assert row.intended_s == row.sent_s or row.intended_s < row.sent_s
    assert len(server.bodies) == 2 + 12  # the warm-up isn't in the rows
    assert len({json.dumps(body["prompt"]) for body in server.bodies}) == 14
    assert server.bodies[0].items() >= {"model": "fake", "temperature": 0.0, "ignore_eos": True, "stream": True}.items()
    assert "online-latency" in capsys.readouterr().out


def test_an_open_loop_sends_at_its_times_whatever_is_answered(server: FakeServer, tmp_path: Path) -> None:
    server.ways = {0: "hang"}
    results = measured(
        tmp_path, *against(server, "--rate 100 inf --arrivals constant --num-requests 5 --output-len 2 --warm-up 0"),
        "--timeout", "0.4",
    )  # fmt: skip
    paced, at_once = (run.rows for run in results.runs)
    assert [row.intended_s for row in paced] == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
    assert [row.intended_s for row in at_once] == [0.0] * 5
    assert all(row.sent_s >= row.intended_s for row in [*paced, *at_once])
    assert outcomes(paced) == ["timeout", *["done"] * 4]
    assert paced[1].sent_s < paced[0].end_s  # nobody waited for the one that hangs
    assert outcomes(at_once) == ["done"] * 5


def test_what_waits_for_a_place_counts_from_its_intended_arrival(server: FakeServer, tmp_path: Path) -> None:
    server.delay_s = 0.01
    results = measured(
        tmp_path, *against(server, "--rate inf --max-in-flight 1 --num-requests 4 --output-len 3 --warm-up 0")
    )
    rows = results.runs[0].rows
    assert most_at_once(rows) == 1
    assert [row.intended_s for row in rows] == [0.0] * 4
    assert all(after.sent_s >= before.end_s for before, after in itertools.pairwise(rows))
    last = rows[-1]
    assert last.ttft_s is not None
    assert last.ttft_s == last.first_s  # all that it waited counts
    assert last.behind_s > sum(row.gaps_ms[0] for row in rows[:-1]) / 1e3


def test_every_way_to_fail_is_told_apart(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = ["429", "error-event", "not-json", "cut", "unfinished", "hang"]
    server.ways = dict(enumerate(ways))
    results = measured(
        tmp_path, *against(server, "--concurrency 1 --num-requests 8 --output-len 3 --warm-up 0 --timeout 0.3")
    )
    rows = results.runs[0].rows
    assert outcomes(rows) == [
        "HTTP 429", "error-event", "malformed", "broken-off", "broken-off", "timeout", "done", "done",
    ]  # fmt: skip
    assert [row.error for row in rows[:2]] == ["come back later", "the engine broke"]
    assert "nonsense" in rows[2].error
    printed = capsys.readouterr().out
    assert "online-errors" in printed
    assert "come back later" in printed


def test_chats_are_sent_text_of_the_wanted_length(server: FakeServer, tmp_path: Path) -> None:
    results = measured(
        tmp_path, *against(server, "--endpoint chat --rate inf --num-requests 3 --input-len 41 --output-len 5"),
        "--model", "other", "--api-key", "secret", "--extra-body", '{"top_k": 7}', "--no-ignore-eos",
    )  # fmt: skip
    assert [row.prompt_tokens for row in results.runs[0].rows] == [41] * 3
    assert [row.output_tokens for row in results.runs[0].rows] == [5] * 3
    assert server.headers["authorization"] == "Bearer secret"
    body = server.bodies[-1]
    assert (body["model"], body["top_k"], "ignore_eos" in body) == ("other", 7, False)
    assert "secret" not in (tmp_path / "online.json").read_text()
    assert server.url not in (tmp_path / "online.json").read_text()
    assert len(server.questions) == 2
    words = [len(question["messages"][0]["content"].split()) for question in server.questions]
    assert [server.num_tokens(question) for question in server.questions] == [OVERHEAD + PER_WORD * n for n in words]


def test_ids_are_sent_where_they_are_taken(server: FakeServer, tmp_path: Path) -> None:
    words = against(server, "--rate inf --num-requests 2 --input-len 31 --output-len 2")
    measured(tmp_path, *words)
    assert all(isinstance(body["prompt"], list) and max(body["prompt"]) < 256 for body in server.bodies)
    server.takes_ids = None
    results = measured(tmp_path, *words)
    assert isinstance(server.bodies[-1]["prompt"], str)
    assert [row.prompt_tokens for row in results.runs[0].rows] == [31, 31]
    assert main(["bench", "online", *words, "--prompt-form", "ids"]) == 2


def test_without_the_servers_count_pieces_are_counted(server: FakeServer, tmp_path: Path) -> None:
    server.tells_usage = False
    results = measured(tmp_path, *against(server, "--rate inf --num-requests 2 --input-len 9 --output-len 6"))
    for row in results.runs[0].rows:
        assert (row.prompt_tokens, row.planned_prompt_tokens) == (None, 9)
        assert (row.output_tokens, row.counted_by_server) == (6, False)


def test_a_recorded_workload_is_sent_again(server: FakeServer, tmp_path: Path) -> None:
    server.ways = {1: "hang"}
    rows = [
        RecordedRow(0, 1, 0.0, 20, 9, 3, True, "length", None, None, 0),
        RecordedRow(1, 2, 0.2, 8, 9, 1, True, "abort", 0.1, None, 1),
        RecordedRow(2, 3, 0.4, 24, 9, 4, False, "length", None, Shares(0, 15, 0), 0),
    ]
    file = tmp_path / "w.jsonl"
    head = Header(FORMAT, VERSION, 3, 0.4, 52, 8, 1, True)
    file.write_bytes(b"\n".join(msgspec.json.encode(line) for line in (head, *rows)))
    results = measured(tmp_path, *against(server, "--speed 4 --warm-up 0"), "--workload", str(file))
    (run,) = results.runs
    assert run.load.speed == 4
    assert [row.intended_s for row in run.rows] == pytest.approx([0.0, 0.05, 0.1])
    assert outcomes(run.rows) == ["done", "left", "done"]
    assert [row.output_tokens for row in run.rows] == [3, 0, 4]
    assert [row.first_s is None for row in run.rows] == [False, True, True]
    first, left, last = server.bodies
    assert len(first["prompt"]) == 20
    assert first["prompt"][:15] == last["prompt"][:15]
    assert first["prompt"][15] != last["prompt"][15]
    assert (left["max_tokens"], last["stream"], "stream_options" in last) == (9, False, False)
    assert server.left == [1]


def test_prompts_of_a_file_are_sent(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"messages": [{"role": "user", "content": "a b"}], "max_tokens": 2}\n"c"\n')
    measured(tmp_path, *against(server, "--endpoint chat --concurrency 1 --warm-up 1 --output-len 3"),
             "--prompts", str(tmp_path / "p.jsonl"))  # fmt: skip
    assert [body["messages"][0]["content"] for body in server.bodies[1:]] == ["a b", "c"]
    assert [body["max_tokens"] for body in server.bodies] == [16, 2, 3]  # the first one warms up
    assert not server.questions


def test_a_server_that_dies_ends_the_sweep_and_what_was_measured_stays(server: FakeServer, tmp_path: Path) -> None:
    server.delay_s = 0.01
    server.ways = {4: server.stop}
    results = measured(
        tmp_path, *against(server, "--concurrency 2 4 8 --num-requests 12 --output-len 3 --warm-up 0"),
        "--figure", str(tmp_path / "f.svg"),
    )  # fmt: skip
    assert len(results.runs) == 2
    assert outcomes(results.runs[0].rows[:3]) == ["done"] * 3
    assert {row.outcome for row in results.runs[1].rows} <= {Outcome.UNREACHABLE, Outcome.BROKEN_OFF}
    assert "sweep ended there" in results.notes[-1]
    assert (tmp_path / "f.svg").stat().st_size > 1000


def test_a_server_that_answers_nothing_is_an_error(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ways = dict.fromkeys(range(20), "429")
    words = against(server, "--rate inf --num-requests 3")
    assert main(["bench", "online", *words]) == 4
    assert "none of 4 requests to warm up was answered" in capsys.readouterr().err
    measured(tmp_path, *words, "--warm-up", "0", code=4)
    assert "no request was answered: status: come back later" in capsys.readouterr().err


def test_no_server_and_no_such_model_are_named(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "online", "--url", server.url, "--model", "third"]) == 2
    assert "--model is 'third', and the server at --url has: fake, other" in capsys.readouterr().err
    server.stop()
    assert main(["bench", "online", "--url", "http://127.0.0.1:9"]) == 3
    assert "nobody answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_ctrl_c_tells_what_there_is_so_far(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.ways = {2: "hang", 3: lambda: signal.raise_signal(signal.SIGINT)}
    results = measured(
        tmp_path, *against(server, "--concurrency 2 4 --num-requests 40 --output-len 2 --warm-up 0"), code=130
    )
    assert results.was_interrupted
    (run,) = results.runs
    assert outcomes(run.rows)[:2] == ["done", "done"]
    assert "stopped" in outcomes(run.rows)
    assert len(run.rows) < 40
    assert run.duration_s >= max(row.end_s for row in run.rows if row.outcome is Outcome.DONE)
    assert "Ended early by Ctrl-C" in capsys.readouterr().out


def test_small_routes_are_asked_meanwhile(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.delay_s = 0.05
    results = measured(
        tmp_path, *against(server, "--concurrency 1 2 --num-requests 2 --output-len 6 --warm-up 0"),
        *["--probe", "/health", "/v1/nothing"],
    )  # fmt: skip
    for run in results.runs:
        assert {probe.path for probe in run.probes} == {"/health", "/v1/nothing"}
        assert [probe.intended_s for probe in run.probes] == pytest.approx([0.05 * k for k in range(len(run.probes))])
        for probe in run.probes:
            assert (probe.status, probe.is_answered) == ((200, True) if probe.path == "/health" else (404, False))
            assert probe.ms > 0
    assert sum(len(run.probes) for run in results.runs) == len(server.asked) - 4, "the first of each doesn't count"
    printed = capsys.readouterr().out
    assert "online-probes" in printed
    assert "missed" in printed, "a route that isn't there misses its aim"
    measured(tmp_path, *against(server, "--rate inf --num-requests 1 --output-len 2 --warm-up 0 --probe"))
    assert "online-probes" not in capsys.readouterr().out


def test_a_server_that_dies_answers_no_question(server: FakeServer, tmp_path: Path) -> None:
    server.delay_s = 0.05
    server.ways = {1: server.stop}
    results = measured(
        tmp_path, *against(server, "--concurrency 1 --num-requests 40 --output-len 4 --warm-up 0 --timeout 1")
    )
    (run,) = results.runs
    assert run.probes[0].is_answered
    assert all(probe.status is None for probe in run.probes if not probe.is_answered)


def test_some_requests_ask_for_no_stream(server: FakeServer, tmp_path: Path) -> None:
    words = against(server, "--rate inf --num-requests 12 --output-len 3 --warm-up 0 --plain-share 0.5 --probe")
    results = measured(tmp_path, *words)
    streams = [row.stream for row in results.runs[0].rows]
    assert True in streams
    assert False in streams
    assert sorted(streams) == sorted(body["stream"] for body in server.bodies)
    assert [row.output_tokens for row in results.runs[0].rows] == [3] * 12
    again = measured(tmp_path, *words)
    assert [row.stream for row in again.runs[0].rows] == streams, "the seed says which"


def test_a_server_of_its_own_is_started_and_ended(tmp_path: Path) -> None:
    results = measured(
        tmp_path, "--model", "tiny-random", "--serve-options=--num-threads 1 --max-model-len 256",
        *["--concurrency", "2", "--num-requests", "4", "--input-len", "20", "--output-len", "6", "--warm-up", "1"],
    )  # fmt: skip
    (run,) = results.runs
    assert results.model == "tiny-random"
    assert outcomes(run.rows) == ["done"] * 4
    assert [(row.prompt_tokens, row.output_tokens) for row in run.rows] == [(20, 6)] * 4
