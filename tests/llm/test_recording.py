"""The offline API's recording: one process that does every job, proved whole as the server's is."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from learnsgl.core import SamplingParams
from learnsgl.errors import EngineError
from learnsgl.llm import LLM
from learnsgl.trace.lives import requests
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from tests.llm.conftest import Maker
from tests.llm.echo import ECHO, INTERRUPTED
from tests.server.echo_executor import CONTEXT_LEN

TEN = SamplingParams(max_tokens=10)


def closed(llm: LLM) -> Trace:
    """The whole recording of an LLM."""
    folder = llm.trace_folder
    assert folder is not None
    llm.close()
    return Trace.open(folder)


@pytest.mark.parametrize("level", ["steps", "full", "tokens"])
def test_every_request_has_one_ending_and_its_times(make: Maker, tmp_path: Path, level: str) -> None:
    llm = make(trace=str(tmp_path), trace_level=level, max_prefill_length=16)
    llm.generate(["a secret", "x" * CONTEXT_LEN, [{"role": "king", "content": ""}], "b" * 50], TEN)
    list(llm.stream("a secret", SamplingParams(max_tokens=20, stop=("ta",))))
    left = llm.stream("c", TEN)
    next(left)
    trace = closed(llm)
    report = verify(trace)
    assert report.is_whole, report.notes
    assert trace.processes == ("llm",)
    lives = requests(trace)
    assert [life.reason for life in lives] == ["length", "error", "error", "length", "stop", "abort"]
    assert [life.generated_tokens for life in lives] == [10, 0, 0, 10, 9, 1]
    assert lives[4].cached_tokens == len("a secret") - 1
    assert all(life.ttft_s is not None for life in (lives[0], lives[3]))
    assert (lives[4].ttft_s is None) == (level == "steps"), "a stream's chunks are of level full"
    assert trace.manifest["state"] == "ended"
    written = b"".join(file.read_bytes() for file in sorted(trace.path.iterdir()))
    assert level == "tokens" or b"secret" not in written, "text is recorded at level tokens only"


def test_the_interrupted_call_ends_in_the_trace_too(make: Maker, tmp_path: Path) -> None:
    llm = make(executor_factory=INTERRUPTED, trace=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["ab", "cd", "ef"], SamplingParams(max_tokens=100))
    llm.generate("ab", TEN)
    trace = closed(llm)
    assert verify(trace).is_whole
    assert [life.reason for life in requests(trace)] == ["abort", "abort", "abort", "length"]


def test_a_broken_engine_cuts_the_recording_and_says_so(make: Maker, tmp_path: Path) -> None:
    llm = make(trace=tmp_path)
    with pytest.raises(EngineError):
        llm.generate(["fine", "\x07"], TEN)
    trace = closed(llm)
    report = verify(trace)
    assert any("the recording stops" in note for note in report.notes)
    assert {life.reason for life in requests(trace)} == {"error"}
    assert trace.manifest["state"] == "failed"
    assert "broke the engine" in trace.manifest["error"]


def test_a_start_that_fails_says_so_in_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="one page is too little"):
        LLM("tiny-random", executor_factory=ECHO, num_pages=1, trace=tmp_path)
    trace = Trace.open(tmp_path)
    assert (trace.manifest["state"], trace.manifest["exit_code"]) == ("failed", 3)


def test_the_last_reference_closes_it(tmp_path: Path) -> None:
    llm = LLM("tiny-random", executor_factory=ECHO, trace=tmp_path)
    llm.generate("ab", TEN)
    del llm
    gc.collect()
    assert verify(Trace.open(tmp_path)).is_whole


def test_python_ends_with_a_stream_half_read_and_nothing_closed(tmp_path: Path) -> None:
    program = f"""
from learnsgl.llm import LLM, SamplingParams
llm = LLM("tiny-random", num_threads=1, num_pages=4096, trace={str(tmp_path)!r})
stream = llm.stream("hello", SamplingParams(max_tokens=1000, ignore_eos=True))
for _ in range(3):
    next(stream)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    trace = Trace.open(tmp_path)
    assert verify(trace).is_whole
    assert [life.reason for life in requests(trace)] == ["abort"]
