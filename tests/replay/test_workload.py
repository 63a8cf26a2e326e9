"""The workload of a recording: what was asked comes back, and shared prefixes are truly shared."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from learnsgl.config import TraceLevel
from learnsgl.errors import FolderError, OptionError
from learnsgl.replay.workload import Row, read_workload, workload, write_workload
from learnsgl.replay.workload_command import print_workload
from learnsgl.trace.reader import Trace
from tests.fakes import expected_output
from tests.replay.ledger_world import MS, US, Ask, World, random_asks
from tests.replay.test_ledger import RECORDINGS, at_steps, trace_of
from tests.trace.story import UID, tell


def text_of(trace: Trace) -> str:
    out = io.StringIO()
    write_workload(trace, out)
    return out.getvalue()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_asked_comes_back(tmp_path: Path, seed: int) -> None:
    asks = random_asks(40, seed)
    rows = workload(World(asks, seed).write(tmp_path))
    assert [row.index for row in rows] == list(range(40))
    assert [row.arrival_s for row in rows] == pytest.approx([(ask.at_ns - asks[0].at_ns) / 1e9 for ask in asks])
    assert [row.prompt_len for row in rows] == [len(ask.prompt) for ask in asks]
    assert [row.max_tokens for row in rows] == [ask.max_tokens for ask in asks]
    assert [row.stream for row in rows] == [ask.stream for ask in asks]
    for row, ask in zip(rows, asks, strict=True):
        left = None if ask.leaves_at_ns is None else (ask.leaves_at_ns - ask.at_ns) / 1e9
        assert row.left_after_s == (None if left is None else pytest.approx(left))
        if row.ending != "abort":
            assert row.generated == len(expected_output(ask.prompt, ask.max_tokens or 0, ignore_eos=ask.ignore_eos))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("page_size", [1, 4])
def test_shared_tokens_are_truly_shared(tmp_path: Path, seed: int, page_size: int) -> None:
    asks = random_asks(60, seed)
    asks += [Ask(asks[-1].at_ns + 200 * MS + i * US, asks[i].prompt + [7] * 9, 5) for i in range(5)]  # a chat goes on
    options = {"prefix_wait_tokens": 8, "max_prefill_length": 48}
    world = World(asks, seed, num_pages=600 // page_size, page_size=page_size, options=options)
    rows = workload(world.write(tmp_path))
    sharing = [row for row in rows if row.shares is not None]
    assert sharing
    for row in sharing:
        assert row.shares is not None
        assert row.shares.with_index is not None
        assert row.shares.with_index < row.index
        other = asks[row.shares.with_index]
        known = other.prompt + expected_output(other.prompt, other.max_tokens or 0, ignore_eos=True)
        assert asks[row.index].prompt[: row.shares.tokens] == known[: row.shares.tokens]
        assert row.shares.of_answer == max(0, row.shares.tokens - len(other.prompt))
        assert 0 < row.shares.tokens <= len(asks[row.index].prompt)


def test_a_chat_that_goes_on_shares_the_answer_too(tmp_path: Path) -> None:
    first = Ask(20 * MS, [3, 1, 4, 1, 5], 6)
    answer = expected_output(first.prompt, 6, ignore_eos=True)
    second = Ask(60 * MS, [*first.prompt, *answer, 9, 9], 6)
    rows = workload(World([first, second]).write(tmp_path))
    assert rows[0].shares is None
    assert rows[1].shares is not None
    assert (rows[1].shares.with_index, rows[1].shares.tokens, rows[1].shares.of_answer) == (0, 10, 5)
    assert [row.group for row in rows] == [0, 0]


def test_requests_that_compute_the_same_prefix_at_once_are_seen(tmp_path: Path) -> None:
    """Neither finds it in the cache; the second meets it when its own prompt is put there."""
    asks = [Ask(19 * MS, [90] * 30), *(Ask(20 * MS + i * US, [*range(1, 20), 50 + i], 6) for i in range(2))]
    rows = workload(World(asks, options={"prefix_wait_tokens": 100}).write(tmp_path))
    assert rows[2].shares is not None
    assert (rows[2].shares.with_index, rows[2].shares.tokens) == (1, 19)
    assert [row.group for row in rows] == [0, 1, 1]


def test_a_file_is_read_back(tmp_path: Path) -> None:
    trace = World(random_asks(20)).write(tmp_path)
    head, rows = read_workload(text_of(trace).splitlines())
    assert rows == workload(trace)
    assert (head.format, head.version, head.num_requests, head.page_size) == ("learnsgl-workload", 1, 20, 1)
    assert head.prompt_tokens == sum(row.prompt_len or 0 for row in rows)
    assert head.shares_known
    shares = [json.loads(line)["shares"] for line in text_of(trace).splitlines()[1:]]
    assert {tuple(item) for item in shares if item} == {("with", "tokens", "of_answer")}


def test_a_newer_field_is_skipped(tmp_path: Path) -> None:
    lines = text_of(trace_of(tmp_path, tell())).splitlines()
    lines[1] = lines[1].replace('{"index"', '{"new":1,"index"')
    assert read_workload([*lines, ""])[1][0].uid == UID


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [], "is empty"),
        (lambda lines: lines[:1], "holds 0 requests, and its first line says 1"),
        (lambda lines: ["{}", *lines[1:]], "line 1: not a header"),
        (lambda lines: [lines[0], "[]"], "line 2: not a row"),
        (lambda lines: [lines[0].replace('"version":1', '"version":2'), lines[1]], "version 2; this program reads"),
        (lambda lines: [lines[0].replace("learnsgl-workload", "x"), lines[1]], "format 'x'"),
        (lambda lines: ["no JSON"], "line 1"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, change: object, words: str) -> None:
    lines = text_of(trace_of(tmp_path, tell())).splitlines()
    with pytest.raises(OptionError, match=words):
        read_workload(change(lines))  # type: ignore[operator]


def test_with_less_in_the_recording_there_is_less(tmp_path: Path) -> None:
    asks = [
        Ask(20 * MS, [1] * 20, 4),
        Ask(40 * MS, [1] * 20, 4),
        Ask(41 * MS, [1] * 300),
        Ask(42 * MS, [], is_broken=True),
    ]
    rows = workload(World(asks).write(tmp_path / "steps", TraceLevel.STEPS))
    assert rows[1].shares is not None
    assert (rows[1].shares.with_index, rows[1].shares.tokens, rows[1].group) == (None, 19, 1)
    assert (rows[2].prompt_len, rows[2].max_tokens, rows[2].ending) == (300, None, "error")
    assert (rows[3].prompt_len, rows[3].max_tokens, rows[3].generated) == (None, None, 0)
    assert not read_workload(text_of(at_steps(tmp_path / "story")).splitlines())[0].shares_known
    empty = trace_of(tmp_path / "empty", {"api": []})
    assert workload(empty) == []
    assert read_workload(text_of(empty).splitlines())[0].num_requests == 0


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".")[0])
def test_recordings(path: Path) -> None:
    head, rows = read_workload(text_of(Trace.open(path)).splitlines())
    assert rows
    assert [row.arrival_s for row in rows] == sorted(row.arrival_s for row in rows)
    assert all(isinstance(row, Row) and row.group <= row.index for row in rows)
    assert head.output_tokens == sum(row.generated for row in rows)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = trace_of(tmp_path, tell())
    assert print_workload(trace, None) == 0
    assert capsys.readouterr().out == text_of(trace)
    out = tmp_path / "w.jsonl"
    assert print_workload(trace, out) == 0
    assert capsys.readouterr().out == f"{out}: 1 requests\n"
    assert out.read_text() == text_of(trace)
    with pytest.raises(FolderError, match="can't be written"):
        print_workload(trace, tmp_path / "no" / "w.jsonl")
