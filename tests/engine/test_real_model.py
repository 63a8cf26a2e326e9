"""The built-in model in float32: the greedy answers of eight chats in one batch are those of transformers."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from learnsgl.config import EngineConfig, SchedulerConfig
from learnsgl.engine.engine import create_engine
from learnsgl.hub import ModelFiles, resolve_model
from tests.engine.driver import generate
from tests.engine.reference import assert_same_greedy

QUESTIONS = [
    "What is the capital of France? Answer in one sentence.",
    "Write a haiku about the sea.",
    "Name three prime numbers greater than ten, and say why each is prime.",
    "Hi",
    "Explain in simple words why the sky is blue, as you would to a child of six who keeps asking why, and give an "
    "example from everyday life for every step of your explanation.",
    "Translate 'good morning' into Spanish, German and Italian.",
    "List the planets of the solar system in order of their distance from the sun.",
    "What is 17 + 25? Think step by step.",
]

FLOAT32_ERROR = 2e-4
"""Logits reach 30 in size, and after 30 layers those of two orders of summation differ by about 5e-5 each."""


@pytest.fixture(scope="module")
def built_in() -> ModelFiles:
    return resolve_model("smollm2-135m", progress=False)


@pytest.mark.model
def test_greedy_answers_of_eight_chats_are_those_of_transformers(built_in: ModelFiles) -> None:
    settings = json.loads((built_in.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(built_in.folder / "tokenizer.json"), chat_template=settings["chat_template"]
    )
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in QUESTIONS
    ]
    assert len(prompts[0]) == 42
    assert len({len(prompt) for prompt in prompts}) > 4

    engine = create_engine(
        built_in.folder, built_in.name, EngineConfig(device="cpu", num_threads=1, num_pages=1600), SchedulerConfig()
    )
    assert engine.info.vocab_size == 49152
    assert engine.info.eos_ids == (2,)
    outputs = generate(engine, prompts, 64, chunk=50)
    engine.close()

    assert tokenizer.decode(outputs[0]).startswith("The capital of France is Paris.")
    model = LlamaForCausalLM.from_pretrained(built_in.folder, dtype=torch.float32).eval()
    compared = [
        assert_same_greedy(model, prompt, output, margin=FLOAT32_ERROR)
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    assert sum(compared) >= 7 * 64
