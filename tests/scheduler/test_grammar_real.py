"""Grammars with the real engine, without HTTP: the offline API, and the built-in model's tokenizer of 49,152 tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from learnsgl.core import FinishReason, Grammar, GrammarKind, SamplingParams
from learnsgl.hub.resolve import resolve_model
from learnsgl.llm import LLM
from learnsgl.scheduler.executor import ExecutorInfo
from learnsgl.scheduler.grammar import grammars_of_model
from learnsgl.trace import events
from learnsgl.trace.reader import Trace
from learnsgl.trace.verify import verify

DATE = Grammar(GrammarKind.REGEX, "20[0-9]{2}-zebra")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("traces")
    with LLM("tiny-random", num_threads=1, num_pages=2048, trace=folder, trace_level="tokens") as llm:
        yield llm
    assert llm.trace_folder is not None
    trace = Trace.open(llm.trace_folder)
    assert verify(trace).is_whole
    (event,) = [e.event for e in trace.events() if isinstance(e.event, events.ReqConstrained)][:1]
    assert (event.kind, event.num_bytes) == ("regex", len(DATE.text))
    told = [repr(entry.event) for entry in trace.events() if not isinstance(entry.event, events.DetokText)]
    assert "[0-9]" not in "".join(told), "the grammar's text is in no event, at any level"


def test_answers_follow_their_grammars_and_neighbours_are_as_alone(llm: LLM) -> None:
    held = SamplingParams(grammar=DATE, temperature=1, seed=3, max_tokens=40)
    free = SamplingParams(temperature=1, seed=4, max_tokens=20)
    both = llm.generate(["When?", "What?"] * 3, [held, free] * 3)
    for completion in both[::2]:
        assert re.fullmatch("20[0-9]{2}-zebra", completion.text)
        assert completion.finish_reason is FinishReason.STOP
    assert both[1].token_ids == llm.generate("What?", free)[0].token_ids


def test_a_dict_of_fields_and_a_stream(llm: LLM) -> None:
    sampling = {"grammar": {"kind": "json_schema", "text": '{"enum": [{"a": 1}]}'}, "max_tokens": 90}
    assert json.loads(llm.generate("A", sampling)[0].text) == {"a": 1}
    assert json.loads("".join(delta.text for delta in llm.stream("A", sampling))) == {"a": 1}


def test_a_bad_grammar_concerns_its_prompt_alone(llm: LLM) -> None:
    bad = SamplingParams(grammar=Grammar(GrammarKind.REGEX, "("), max_tokens=4)
    first, second = llm.generate(["A", "B"], [bad, SamplingParams(max_tokens=4)])
    assert first.error is not None
    assert first.error.code == "invalid_grammar"
    assert second.finish_reason is not FinishReason.ERROR


@pytest.mark.model
def test_masks_of_the_built_in_tokenizer_allow_what_fits_and_nothing_else() -> None:
    folder = Path(resolve_model("smollm2-135m", progress=False).folder)
    model_vocab = 49152 + 100  # as models have that pad their embeddings
    info = ExecutorInfo("m", "fake", "none", 8, 1, 64, model_vocab, (2,))
    grammars = grammars_of_model(folder, info)
    matcher = grammars.start(grammars.compile(Grammar(GrammarKind.REGEX, "( ?é| ?the)+")))
    bits = np.zeros(matcher.num_filled_bytes, dtype=np.uint8)
    assert matcher.fill(bits, SamplingParams(), 0)
    allowed = np.flatnonzero(np.unpackbits(bits, count=model_vocab, bitorder="little")).tolist()
    tokens = grammars._loaded()
    for token in allowed:
        text = tokens.decode_bytes([token])
        assert any(whole.startswith(text) for whole in (" thé".encode(), b" the", "é thé".encode(), b"the ")) or (
            re.fullmatch(rb"((^| )?(the|\xc3\xa9?|t|th))+ ?", text)
        ), text
    assert {tokens.tokenize_str(" the")[0], tokens.tokenize_str("the")[0]} <= set(allowed)
    assert 2 not in allowed
    assert max(allowed) < 49152
