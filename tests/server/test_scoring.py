"""`max_tokens` 0: the prompt's log-probabilities alone, as lm-eval-harness and SGLang's users ask for them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from learnsgl.trace import events
from tests.fakes import fake_logprob
from tests.server.conftest import Starter, check_trace
from tests.server.running import MODEL, RunningServer


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["ABCDE", [65, 66, 67, 68, 69]])
def test_a_completion_that_is_its_prompt(server: RunningServer, prompt: object, stream: bool) -> None:
    answer = server.openai().completions.create(
        model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=1, n=2, stream=stream,
        stream_options={"include_usage": True} if stream else None,
    )  # type: ignore[call-overload]  # fmt: skip
    chunks = list(answer) if stream else [answer]
    texts, tokens, logprobs, reasons = ["", ""], [[], []], [[], []], ["", ""]  # type: ignore[var-annotated]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.text
        if choice.logprobs is not None:
            tokens[choice.index] += choice.logprobs.tokens
            logprobs[choice.index] += choice.logprobs.token_logprobs
        reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == ["ABCDE", "ABCDE"]
    assert tokens == [list("ABCDE"), list("ABCDE")]
    expected = [None] + [fake_logprob(65 + k, k) for k in range(1, 5)]
    assert logprobs == [pytest.approx(expected)] * 2
    assert reasons == ["length", "length"]
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (5, 0)


def test_an_echo_alone(server: RunningServer) -> None:
    answer = server.openai().completions.create(model=MODEL, prompt=["AB", "CDE"], max_tokens=0, echo=True)
    assert [choice.text for choice in answer.choices] == ["AB", "CDE"]
    assert [choice.logprobs for choice in answer.choices] == [None, None]


def test_what_would_have_ended_the_answer_ends_nothing(server: RunningServer) -> None:
    """The echo of this prompt's beginning is an end-of-sequence token, which would say `stop`."""
    prompt = [259, 65, 66]
    answer = server.openai().completions.create(model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("AB", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert len(choice.logprobs.tokens) == 3


def test_generate(server: RunningServer) -> None:
    body: dict[str, Any] = {
        "text": ["ABC", "DE"], "return_logprob": True, "logprob_start_len": 0,
        "sampling_params": [{"max_new_tokens": 0}, {"max_new_tokens": 2}],
    }  # fmt: skip
    scored, answered = httpx.post(f"{server.url}/generate", json=body).json()
    meta = scored["meta_info"]
    assert (scored["text"], meta["completion_tokens"]) == ("", 0)
    assert meta["finish_reason"] == {"type": "length", "length": 0}
    assert [entry[1] for entry in meta["input_token_logprobs"]] == [65, 66, 67]
    assert meta["output_token_logprobs"] == []
    assert answered["text"] == "DE"


def test_the_recording_tells_the_token_that_was_sampled(start: Starter) -> None:
    server = start("--num-tokenizer", "0")
    server.openai().completions.create(model=MODEL, prompt="ABC", max_tokens=0, echo=True)
    server.process.terminate()
    assert server.wait() == 0
    trace = check_trace(server)
    (ended,) = [item.event for item in trace.events("api") if isinstance(item.event, events.ReqEnded)]
    assert ended.status == 200
