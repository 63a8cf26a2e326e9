"""Tools, past calls and results come into the prompt: from a template that knows them, or as text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as BackendTokenizer

from learnsgl.core import Grammar, GrammarKind, SamplingParams
from learnsgl.errors import RequestError
from learnsgl.tokenizer.tokenize import Tokenizer, load_tokenizer
from learnsgl.tokenizer.tool_forms import CallForm
from learnsgl.tokenizer.tool_grammar import CallTokens, FunctionRule, marked, schema_of
from learnsgl.tokenizer.tool_request import constrained, fault_of
from tests.tokenizer.tool_templates import CALL, CLOCK, HERMES, LLAMA, NO_SYSTEM, PAST, UNKNOWN_FORM, WEATHER, asked

Load = Callable[..., Tokenizer]
NONE = CallTokens()
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def load(tiny_folder: Path, tmp_path: Path) -> Load:
    """The tiny tokenizer with another chat template, and with added tokens."""

    def load(template: Any, *added: AddedToken) -> Tokenizer:
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        backend = BackendTokenizer.from_file(str(folder / "tokenizer.json"))
        backend.add_tokens(list(added))
        backend.save(str(folder / "tokenizer.json"))
        return load_tokenizer(folder)

    return load


def test_the_form_is_told_by_the_template(load: Load, tokenizer: Tokenizer) -> None:
    assert load(HERMES).call_form is CallForm.HERMES
    assert load(LLAMA).call_form is CallForm.LLAMA
    assert load([{"name": "default", "template": NO_SYSTEM}, {"name": "tool_use", "template": HERMES}]).call_form is (
        CallForm.HERMES
    )
    for template in (NO_SYSTEM, UNKNOWN_FORM, None, "{{ nothing.there.is }}", "{{ 1 / 0 }}"):
        assert load(template).call_form is CallForm.GENERIC
    assert tokenizer.call_form is CallForm.GENERIC


def test_a_template_that_knows_tools_gets_them(load: Load) -> None:
    text = load(HERMES).render_chat(PAST, asked(WEATHER))
    assert f"Functions: {json.dumps(WEATHER)} " in text
    assert '\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call><' in text
    assert text.endswith("<tool_response>rain</tool_response><|im_end|>\n<|im_start|>assistant\n")
    text = load(LLAMA).render_chat(PAST, asked())
    assert f"Functions: {json.dumps(WEATHER)}\n{json.dumps(CLOCK)}\nHow is Oslo?" in text
    assert '{"name": "get_weather", "parameters": {"city": "Oslo", "days": 2}}' in text
    with pytest.raises(RequestError, match="one call at a time") as caught:
        load(LLAMA).render_chat([*PAST[:1], PAST[1] | {"tool_calls": [CALL, CALL]}], asked())
    assert caught.value.param == "messages"


def test_other_templates_get_text(tokenizer: Tokenizer) -> None:
    text = tokenizer.render_chat([{"role": "system", "content": "Be brief."}, *PAST, *PAST[2:]], asked(WEATHER))
    system, user, call, results, rest = text.split("<|im_start|>")[1:]
    assert system.startswith("system\nBe brief.\n\nYou can call functions.")
    assert json.dumps(WEATHER["function"]) in system
    assert '\n<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n' in system
    assert user == "user\nHow is Oslo?<|im_end|>\n"
    assert call == (
        'assistant\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
        "<|im_end|>\n"
    )
    result = "<tool_response>\nrain\n</tool_response>"
    assert results == f"user\n{result}\n{result}<|im_end|>\n"
    assert rest == "assistant\n"
    without = tokenizer.render_chat(PAST)
    assert "You can call" not in without
    assert "</tool_call>" in without


def test_text_beside_a_call_stays(tokenizer: Tokenizer) -> None:
    chat = [*PAST[:1], PAST[1] | {"content": "I look it up."}, *PAST[2:]]
    assert "assistant\nI look it up.\n<tool_call>\n" in tokenizer.render_chat(chat)


def test_a_template_without_a_system_message_is_told_by_the_user(load: Load) -> None:
    text = load(NO_SYSTEM).render_chat(PAST, asked(WEATHER))
    assert text.startswith("[user] You can call functions.")
    assert "\n\nHow is Oslo?[assistant] <tool_call>" in text


def test_a_form_that_is_not_known_is_not_asked_for(load: Load) -> None:
    text = load(UNKNOWN_FORM).render_chat(PAST, asked(WEATHER))
    assert text.startswith("[system] You can call functions.")
    assert "call:get_weather" not in text
    assert text.count("The weather in a city.") == 1, "told once, and not by the template too"


def test_the_prompt_is_the_same_whatever_the_choice(tokenizer: Tokenizer) -> None:
    """So the cached prefix of a chat serves all choices."""
    texts = {
        tokenizer.render_chat(HELLO, asked(choice=choice, only=only))
        for choice, only in (("auto", None), ("none", None), ("required", None), ("required", "get_time"))
    }
    assert len(texts) == 1
    assert tokenizer.render_chat(HELLO) not in texts


def test_marks_are_text_even_where_they_are_special_tokens(load: Load) -> None:
    marks = [AddedToken(text, special=True, normalized=False) for text in ("<tool_call>", "</tool_call>", "<|x|>")]
    model = load(HERMES, *marks, AddedToken("<think>", special=False, normalized=False))
    ids = model.encode_text("<think>A<tool_call>B</tool_call><|x|>", add_special_tokens=False)
    assert len(ids) == 6
    decoder = model.start_decoding()
    assert "".join(decoder.feed(token) for token in ids) == "<think>A<tool_call>B</tool_call>"
    tokens = model.call_tokens
    assert (tokens.begin, tokens.end, tokens.optional, tokens.plain) == (ids[2], ids[4], None, (ids[0],))


def test_the_grammar_of_a_request(load: Load) -> None:
    model, plain = load(HERMES), SamplingParams(temperature=0.5)
    assert constrained(plain, asked(choice="none"), model) == plain
    sampling = constrained(plain, asked(), model)
    assert sampling.temperature == 0.5
    assert sampling.grammar is not None
    assert sampling.grammar.kind is GrammarKind.LARK
    assert sampling.grammar != constrained(plain, asked(choice="required"), model).grammar


def test_json_or_a_call(load: Load) -> None:
    schema = Grammar(GrammarKind.JSON_SCHEMA, '{"type": "object", "properties": {"sky": {"enum": ["grey"]}}}')
    model = load(HERMES)
    both = constrained(SamplingParams(grammar=schema), asked(), model).grammar
    assert both is not None
    tree = LLTokenizer(model._backend.to_str(), eos_token=259)
    for text, is_allowed in (
        ('{"sky": "grey"}', True), ('<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>', True),
        ('{"sky": "blue"}', False), ("It is grey.", False), ("grey <tool_call>", False),
    ):  # fmt: skip
        matcher = LLMatcher(tree, both.text)
        assert (matcher.try_consume_tokens(list(text.encode())) == len(text)) == is_allowed, text
    required = asked(choice="required")
    assert constrained(SamplingParams(grammar=schema), required, model) == constrained(
        SamplingParams(), required, model
    )
    assert "%json" in str(constrained(SamplingParams(grammar=Grammar(GrammarKind.JSON_OBJECT)), asked(), model).grammar)


@pytest.mark.parametrize(
    ("template", "schema", "code"),
    [(LLAMA, "{}", "unsupported"), (HERMES, "[]", "invalid_grammar"), (HERMES, "{", "invalid_grammar"),
     (HERMES, '{"type": "strin"}', "invalid_grammar")],
)  # fmt: skip
def test_a_form_that_tools_can_not_stand_beside(load: Load, template: str, schema: str, code: str) -> None:
    sampling = SamplingParams(grammar=Grammar(GrammarKind.JSON_SCHEMA, schema))
    with pytest.raises(RequestError) as caught:
        constrained(sampling, asked(), load(template))
    assert (caught.value.code, caught.value.param) == (code, "grammar"), "which is the client's own field by its name"


@pytest.mark.parametrize(
    "parameters", [{"type": "object", "properties": {"a": {"type": "strin"}}}, {"$ref": "#/$defs/none"}, {"enum": []}]
)
def test_a_schema_that_is_none(tokenizer: Tokenizer, parameters: dict[str, Any]) -> None:
    bad = {"type": "function", "function": {"name": "bad", "parameters": parameters}}
    with pytest.raises(RequestError, match=r"tools\[1\]\.function\.parameters can't be made a grammar") as caught:
        constrained(SamplingParams(), asked(WEATHER, bad), tokenizer)
    assert (caught.value.code, caught.value.param) == ("invalid_grammar", "tools[1].function.parameters")


KEYWORDS = st.sampled_from(
    ["type", "properties", "items", "required", "enum", "const", "anyOf", "allOf", "$ref", "pattern", "minLength"]
)  # fmt: skip
WORDS = st.sampled_from(["object", "array", "string", "integer", "null", "a", "(", "[a-z]+$", "#", "#/properties/a"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=4)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYWORDS, VALUES, max_size=4))
def test_any_schema_is_a_grammar_or_an_error_of_the_client(parameters: dict[str, Any]) -> None:
    schema = schema_of({"name": "f", "parameters": parameters})
    assert fault_of(schema) or not LLMatcher.validate_grammar(
        marked([FunctionRule("f", schema)], True, 1, "<", ">", NONE)
    )


def test_only_a_strict_schema_must_be_enforceable(tokenizer: Tokenizer) -> None:
    parameters = {"properties": {"a": {"not": {"type": "string"}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert constrained(SamplingParams(), asked(tool), tokenizer).grammar is not None
    strict = {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}
    with pytest.raises(RequestError, match="not"):
        constrained(SamplingParams(), asked(strict), tokenizer)
