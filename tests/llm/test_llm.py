"""The offline API on an executor that repeats the prompt: what goes in, what comes out, and what goes wrong."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from learnsgl.core import FinishReason, SamplingParams
from learnsgl.errors import EngineError, OptionError, RequestError, ServingError
from learnsgl.hub.tiny import IM_END, IM_START
from learnsgl.llm import LLM, Completion, Progress
from tests.llm.conftest import Maker
from tests.llm.echo import INTERRUPTED
from tests.server.echo_executor import CONTEXT_LEN, echo

TEN = SamplingParams(max_tokens=10)


def texts(completions: list[Completion]) -> list[str]:
    return [completion.text for completion in completions]


def test_every_kind_of_prompt_is_answered_in_its_place(make: Maker) -> None:
    llm = make()
    chat = [{"role": "user", "content": "Hi"}]
    first, second, third = llm.generate(["abc", [120, 121], chat], TEN)
    assert (first.index, first.text, first.token_ids) == (0, echo("abc", 10), list(echo("abc", 10).encode()))
    assert (second.index, second.text, second.num_prompt_tokens) == (1, "xyxyxyxyxy", 2)
    assert {first.finish_reason, second.finish_reason} == {FinishReason.LENGTH}
    assert (third.text, third.finish_reason) == ("user\nHi", FinishReason.STOP), "special tokens give no text"
    assert (third.token_ids[0], third.token_ids[-1], third.num_generated_tokens) == (IM_START, IM_END, 9)
    assert first.timing.ttft_s is not None
    assert 0 < first.timing.ttft_s <= first.timing.total_s


def test_one_prompt_may_stand_alone(make: Maker) -> None:
    llm = make()
    assert texts(llm.generate("abc", TEN)) == [echo("abc", 10)]
    assert texts(llm.generate([97, 98], TEN)) == [echo("ab", 10)]
    assert texts(llm.generate(np.array([97, 98]), TEN)) == [echo("ab", 10)]  # type: ignore[arg-type]
    assert len(llm.generate([{"role": "user", "content": "Hi"}], TEN)) == 1
    assert llm.generate([], TEN) == []


def test_several_answers_to_a_prompt(make: Maker) -> None:
    llm = make()
    answers = llm.generate(["ab", "cde"], SamplingParams(n=3, max_tokens=4))
    assert [(answer.index, answer.choice, answer.text) for answer in answers] == [
        *((0, choice, "abab") for choice in range(3)), *((1, choice, "cdec") for choice in range(3)),
    ]  # fmt: skip
    with pytest.raises(RequestError, match="n is 2; a stream gives one answer"):
        llm.stream("ab", SamplingParams(n=2))


def test_log_probabilities(make: Maker) -> None:
    (plain,) = make().generate("abc", SamplingParams(max_tokens=2))
    assert (plain.logprobs, plain.prompt_logprobs) == (None, None)
    (answer,) = make().generate("abc", SamplingParams(max_tokens=2, logprobs=1, prompt_logprobs=0))
    assert answer.logprobs is not None
    assert answer.prompt_logprobs is not None
    assert [entry.token for entry in answer.logprobs] == [b"a", b"b"]
    assert [len(entry.top) for entry in answer.logprobs] == [1, 1]
    assert [entry.token for entry in answer.prompt_logprobs] == [b"a", b"b", b"c"]


def test_more_prompts_than_rows_and_a_shared_prefix(make: Maker) -> None:
    llm = make(max_running_requests=2)
    prompts = [f"a prefix that all of them share, number {n}" for n in range(9)]
    completions = llm.generate(prompts, [SamplingParams(max_tokens=5 + n) for n in range(9)])
    assert texts(completions) == [echo(prompt, 5 + n) for n, prompt in enumerate(prompts)]
    assert sum(completion.num_cached_tokens > 30 for completion in completions) == 8


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (7, "prompts is of type int; it must be a text"),
        (b"abc", "prompts is of type bytes"),
        ({"role": "user"}, "prompts is of type dict"),
        (["abc", 1.5], r"prompts\[1\] is of type float"),
        (["abc", []], r"prompts\[1\] is empty"),
        ([[1, 2, "c"]], r"prompts\[0\]\[2\] is of type str; it must be a token id"),
        ([[1, -2]], r"prompts\[0\]\[1\] is -2; token ids go from 0"),
        ([[1, 2**31]], "token ids go from 0 to 2147483647"),
        ([True, False], r"prompts\[0\] is of type bool"),
        ([{"role": "user", "content": "Hi"}, "Hi"], r"prompts\[1\] is of type str; it must be a message"),
    ],
)
def test_what_is_no_prompt_is_refused_before_anything_runs(make: Maker, prompts: Any, said: str) -> None:
    llm = make()
    with pytest.raises(RequestError, match=said):
        llm.generate(prompts, TEN)
    assert llm.num_running == 0


def test_sampling_params_that_do_not_fit_are_refused(make: Maker) -> None:
    llm = make()
    with pytest.raises(RequestError, match="1 elements for 2 prompts"):
        llm.generate(["a", "b"], [TEN])
    with pytest.raises(RequestError, match=r"sampling_params\[1\] is of type int; it must be a SamplingParams, or a d"):
        llm.generate(["a", "b"], [TEN, 7])  # type: ignore[list-item]
    for wrong in ("abc", b"abc", 7):
        with pytest.raises(
            RequestError, match=r"sampling_params is of type \w+; it must be a SamplingParams, or a dict"
        ):
            llm.generate(["a", "b", "c"], wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"give a tuple of texts, as in stop=\('abc',\)"):
        llm.generate(["a"], SamplingParams(stop="abc"))  # type: ignore[arg-type]


def test_sampling_params_as_a_dict(make: Maker) -> None:
    llm = make()
    for fields in ({"max_tokens": 4}, [{"max_tokens": 4}], [SamplingParams(max_tokens=4)]):
        assert llm.generate(["abcdef"], fields)[0].text == "abcd"
    for stop in ("dea", ["dea"], ("dea", "zz")):
        assert llm.generate("abcde", {"max_tokens": 20, "stop": stop})[0].text == "abc"
    *_, last = llm.stream("abcdef", {"max_tokens": 4})
    assert last.completion is not None
    assert last.completion.text == "abcd"
    first, second = llm.generate(["abcdef", "abcdef"], [SamplingParams(max_tokens=2), {"max_tokens": 3}])
    assert (first.text, second.text) == ("ab", "abc")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_new_tokens": 4}, r"sampling_params has the field 'max_new_tokens', .* \(did you mean 'max_tokens'\?\)"),
        ({"zz": 4}, r"sampling_params has the field 'zz', which SamplingParams hasn't; there are: temperature, "),
        ({4: 4}, "sampling_params has the field 4"),
        ([{"zz": 4}], r"sampling_params\[0\] has the field 'zz'"),
        ({"temperature": -1}, "sampling_params: temperature is -1.0; it must be between 0 and 100"),
        ({"temperature": "hot"}, "sampling_params: Expected `float`, got `str`.*temperature"),
        ({"stop": 5}, "sampling_params: Expected `array`, got `int`.*stop"),
    ],
)
def test_a_dict_that_is_no_sampling_params_is_refused(make: Maker, fields: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make().generate(["abc"], fields)


def test_the_package_offers_the_api_and_loads_nothing_before() -> None:
    program = (
        "import sys, learnsgl\n"
        "assert 'learnsgl.llm' not in sys.modules and 'LLM' in dir(learnsgl)\n"
        "from learnsgl import LLM, SamplingParams\n"
        "import learnsgl.llm, learnsgl.core\n"
        "assert LLM is learnsgl.llm.LLM and SamplingParams is learnsgl.core.SamplingParams\n"
        "assert 'torch' not in sys.modules and not hasattr(learnsgl, 'Llm')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_bad_prompt_does_not_cost_the_others_their_answers(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    llm = make()
    good, long, king, again = llm.generate(["ok", "x" * CONTEXT_LEN, [{"role": "king", "content": ""}], "ok"], TEN)
    assert (good.text, again.text) == (echo("ok", 10), echo("ok", 10))
    assert (long.finish_reason, long.text, long.num_prompt_tokens) == (FinishReason.ERROR, "", CONTEXT_LEN)
    assert long.error is not None
    assert long.error.code == "context_length_exceeded"
    assert f"context holds {CONTEXT_LEN}" in str(long.error)
    with pytest.raises(RequestError, match="role is 'king'"):
        king.raise_for_error()
    assert good.raise_for_error() is good
    assert "2 of 4 prompts could not be answered; the first, prompts[1]: the prompt is 256" in caplog.text


@pytest.mark.parametrize(("stop", "text", "num_tokens"), [("e", "abcd", 5), ("ef", "abcd", 6), ("dea", "abcdef", None)])
def test_stop_strings(make: Maker, stop: str, text: str, num_tokens: int | None) -> None:
    sampling = SamplingParams(max_tokens=6, stop=("nowhere", stop))
    (completion,) = make().generate("abcdef", sampling)
    assert completion.text == text
    reason = FinishReason.LENGTH if num_tokens is None else FinishReason.STOP
    assert (completion.finish_reason, completion.num_generated_tokens) == (reason, num_tokens or 6)
    assert bytes(completion.token_ids) == b"abcdef"[:num_tokens]


def test_completions_come_as_they_are_ready(make: Maker) -> None:
    params = [SamplingParams(max_tokens=n) for n in (30, 2, 10)]
    completions = list(make().generate_each(["a", "b", "c"], params))
    assert [completion.index for completion in completions] == [1, 2, 0]


def test_progress_counts_prompts_and_tokens(make: Maker) -> None:
    seen: list[Progress] = []
    make().generate(["a", "b"], [SamplingParams(max_tokens=3), TEN], progress=seen.append)
    assert [progress.num_tokens for progress in seen] == sorted(progress.num_tokens for progress in seen)
    assert (seen[-1].num_finished, seen[-1].num_prompts, seen[-1].num_tokens) == (2, 2, 13)
    assert seen[-1].tokens_per_s > 0


def test_the_progress_bar_is_on_stderr(make: Maker, capfd: pytest.CaptureFixture[str]) -> None:
    make(seed=300).generate("a", TEN, progress=True)  # 10 steps of 300 ms: long enough for a bar without a terminal
    captured = capfd.readouterr()
    assert "1/1 prompts" in captured.err
    assert "tokens/s" in captured.err
    assert captured.out == ""


# ---------------------------------------------------------------- streams


def test_a_stream_gives_the_same_answer_piece_by_piece(make: Maker) -> None:
    llm = make()
    sampling = SamplingParams(max_tokens=50, stop=("lo, w",))
    (whole,) = llm.generate("hello, world! ", sampling)
    *first, last = llm.stream("hello, world! ", sampling)
    assert "".join(delta.text for delta in [*first, last]) == whole.text == "hel"
    assert [token for delta in [*first, last] for token in delta.token_ids] == whole.token_ids
    assert all(delta.completion is None for delta in first)
    assert last.completion is not None
    assert (last.completion.text, last.completion.finish_reason) == (whole.text, FinishReason.STOP)
    assert last.completion.num_cached_tokens == len("hello, world! ") - 1


def test_a_stream_that_cannot_be_answered_raises(make: Maker) -> None:
    llm = make()
    with pytest.raises(RequestError, match="prompt is of type float"):
        llm.stream(1.5)  # type: ignore[arg-type]  # at once, before the first delta is asked for
    stream = llm.stream("x" * CONTEXT_LEN)
    with pytest.raises(RequestError, match="shorten the prompt"):
        next(stream)


def test_streams_and_calls_may_be_interleaved(make: Maker) -> None:
    llm = make()
    streams = [llm.stream(prompt, TEN) for prompt in ("ab", "cd")]
    got = [next(stream).text for stream in streams]
    assert llm.num_running == 2
    assert texts(llm.generate(["efg"], SamplingParams(max_tokens=40))) == [echo("efg", 40)]
    assert [start + "".join(d.text for d in stream) for start, stream in zip(got, streams, strict=True)] == [
        echo("ab", 10),
        echo("cd", 10),
    ]


def test_a_stream_that_is_left_is_aborted_by_the_next_call(make: Maker) -> None:
    llm = make()
    for delta in llm.stream("ab", SamplingParams(max_tokens=200)):
        assert delta.text == "a"
        break
    assert llm.num_running == 1
    assert texts(llm.generate("xy", TEN)) == [echo("xy", 10)]
    assert llm.num_running == 0


# ---------------------------------------------------------------- interrupts, faults, threads


def test_an_interrupt_within_a_step_waits_for_its_end_and_leaves_the_llm_usable(make: Maker) -> None:
    llm = make(executor_factory=INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["ab", "cd", "ef"], SamplingParams(max_tokens=100))
    assert llm.num_running == 0, "what ran is aborted"
    assert texts(llm.generate(["ab", "xyz"], TEN)) == [echo("ab", 10), echo("xyz", 10)]


def test_an_interrupt_between_steps_does_too(make: Maker) -> None:
    llm = make()

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.generate(["ab", "cd"], SamplingParams(max_tokens=100), progress=interrupt)
    assert llm.num_running == 0
    assert texts(llm.generate("ab", TEN)) == [echo("ab", 10)]


def test_what_was_finished_before_an_interrupt_is_kept(make: Maker) -> None:
    params = [SamplingParams(max_tokens=100), SamplingParams(max_tokens=2)]
    completions = make(executor_factory=INTERRUPTED).generate_each(["ab", "cd"], params)
    assert next(completions).text == "cd"
    with pytest.raises(KeyboardInterrupt):
        next(completions)


def test_an_engine_that_fails_ends_every_call(make: Maker) -> None:
    llm = make()
    stream = llm.stream("ab", TEN)
    next(stream)
    with pytest.raises(EngineError, match="broke the engine"):
        llm.generate(["fine", "\x07"], TEN)
    with pytest.raises(EngineError, match=r"failed before .* make a new LLM"):
        next(stream)
    with pytest.raises(EngineError, match="make a new LLM"):
        llm.generate("ab")
    llm.close()


def test_two_threads_may_share_one(make: Maker) -> None:
    llm, got = make(), {}

    def work(prompt: str) -> None:
        got[prompt] = texts(llm.generate([prompt] * 3, SamplingParams(max_tokens=40)))

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in ("ab", "cde", "fghi")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {prompt: [echo(prompt, 40)] * 3 for prompt in ("ab", "cde", "fghi")}


def test_closing_ends_what_another_thread_waits_for(make: Maker) -> None:
    llm, began, caught = make(seed=5), threading.Event(), []

    def work() -> None:
        try:
            llm.generate("ab", SamplingParams(max_tokens=200), progress=lambda progress: began.set())
        except ServingError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(30)
    llm.close()
    thread.join(30)
    assert caught == ["this LLM is closed; make a new one"]


def test_it_works_while_an_event_loop_runs(make: Maker) -> None:
    async def main() -> list[str]:
        return texts(make().generate("ab", TEN))

    assert asyncio.run(main()) == [echo("ab", 10)]


# ---------------------------------------------------------------- options and the end


def test_options_of_the_server_and_unknown_ones_are_refused(make: Maker) -> None:
    with pytest.raises(OptionError, match="port is an option of the HTTP server"):
        make(port=1)
    with pytest.raises(OptionError, match="unknown option 'pages'"):
        make(pages=1)
    with pytest.raises(OptionError, match="--policy is 'fifo'"):
        make(policy="fifo")
    assert make(trace_level="steps", overlap=False).config.scheduler.overlap is False


def test_it_closes_once_and_for_all() -> None:
    with LLM("tiny-random", executor_factory="tests.server.echo_executor:create_echo_executor") as llm:
        stream = llm.stream("ab", TEN)
        next(stream)
        assert "closed" not in repr(llm)
    assert llm.closed
    assert repr(llm).endswith("closed>")
    llm.close()
    with pytest.raises(ServingError, match="this LLM is closed"):
        llm.generate("ab")
    *_, last = stream
    assert last.completion is not None
    assert last.completion.finish_reason is FinishReason.ABORT
