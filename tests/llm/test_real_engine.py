"""The offline API with the real engine: the small random model, and the built-in one beside a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from learnsgl.core import SamplingParams
from learnsgl.hub import tiny
from learnsgl.llm import LLM
from learnsgl.local_server import LocalServer
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify
from learnsgl.viz.timeline import timeline

GREEDY = SamplingParams(temperature=0, max_tokens=16)
QUESTIONS = [
    "What is the capital of France? Answer in one sentence.",
    "Name three colours.",
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with LLM("tiny-random", num_threads=1, num_pages=2048, trace=tmp_path_factory.mktemp("traces")) as llm:
        yield llm
    assert llm.trace_folder is not None
    assert verify(Trace.open(llm.trace_folder)).is_whole


def test_an_answer_does_not_hang_on_its_neighbours(llm: LLM) -> None:
    prompts = ["Hello!", "How are you today? " * 20, "Tell me more."]
    together = llm.generate(prompts, GREEDY)
    assert [llm.generate(prompt, GREEDY)[0].token_ids for prompt in prompts] == [c.token_ids for c in together]
    seeded = SamplingParams(seed=7, max_tokens=24)
    assert [llm.generate(prompt, seeded)[0].text for prompt in prompts] == [
        completion.text for completion in llm.generate(prompts, seeded)
    ]


def test_a_stream_gives_the_same_text(llm: LLM) -> None:
    assert "".join(delta.text for delta in llm.stream("Hello!", GREEDY)) == llm.generate("Hello!", GREEDY)[0].text


def test_its_recording_can_be_drawn(llm: LLM) -> None:
    llm.generate(["Hello!", "How are you? " * 10], GREEDY)
    list(llm.stream("Hello!", GREEDY))
    assert llm.trace_folder is not None
    figure, data = timeline(Trace.open(llm.trace_folder))
    assert data.scheduler == "llm"
    assert len(data.visits[-1].chunks_ns) > 1
    assert {work.kind for work in data.work} >= {"tokenize", "schedule", "detokenize"}
    assert "requests" in [label.get_text() for axes in figure.axes for label in axes.texts + axes.get_yticklabels()]


def test_a_shape_answers_with_nonsense_that_can_be_read(tmp_path: Path) -> None:
    qwen2 = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 5000, "eos_token_id": None}
    (tmp_path / "config.json").write_text(json.dumps({**tiny.CONFIG, **qwen2}))
    with LLM(str(tmp_path), dummy_weights=True, num_threads=1, num_pages=256) as llm:
        assert llm.info.model == tmp_path.name
        prompts = ["Hi", [5, 4999], [{"role": "user", "content": "Hi"}]]
        answers = llm.generate(prompts, GREEDY)
        assert [len(answer.token_ids) for answer in answers] == [16, 16, 16]
        assert all(f" t{token}" in answer.text for answer in answers for token in answer.token_ids if token > 257)
        assert sum(len(delta.text) > 0 for delta in llm.stream("Hi", GREEDY)) > 8


@pytest.mark.model
@pytest.mark.usefixtures("own_home")
def test_the_built_in_model_answers_as_the_server_does(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    with LLM(num_threads=1, num_pages=2048, trace=tmp_path) as llm:
        completions = llm.generate(chats, GREEDY)
    assert completions[0].text.startswith("The capital of France is Paris.")
    assert completions[0].num_prompt_tokens == 42
    assert verify(Trace.open(tmp_path)).is_whole
    with LocalServer("--num-pages", "2048", "--num-threads", "1") as server:
        for chat, completion in zip(chats, completions, strict=True):
            body = {"model": server.model, "messages": chat, "temperature": 0, "max_tokens": GREEDY.max_tokens}
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120, trust_env=False).json()
            assert answer["choices"][0]["message"]["content"] == completion.text
            assert answer["choices"][0]["finish_reason"] == completion.finish_reason
            assert answer["usage"]["completion_tokens"] == completion.num_generated_tokens
