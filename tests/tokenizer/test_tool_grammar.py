"""Whatever a grammar of tool calls allows, its form's parser reads as calls that the functions' schemas allow."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as BackendTokenizer

from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.tokenizer.tool_forms import CALL_BEGIN, CALL_END, FORMS, PYTHON_TAG, CallForm, parsers_of, plan_of
from learnsgl.tokenizer.tool_grammar import CallTokens, schema_of
from tests.tokenizer.test_tool_parser import read
from tests.tokenizer.tool_templates import CLOCK, WEATHER, asked

WITH_TOKENS = "with tokens"
TEXT_ONLY = "text only"
IM_END = 259


class Vocabulary:
    """A tokenizer of bytes, with added tokens for marks or without."""

    def __init__(self, backend: BackendTokenizer, *, added: bool) -> None:
        self.backend = BackendTokenizer.from_str(backend.to_str())
        self.tokens = CallTokens()
        if added:
            plain = [AddedToken(text, special=False, normalized=False) for text in (CALL_BEGIN, CALL_END, "<think>")]
            self.backend.add_tokens(plain)
            self.backend.add_special_tokens([PYTHON_TAG])
            begin, end, think, tag = (
                self.backend.token_to_id(t) for t in (CALL_BEGIN, CALL_END, "<think>", PYTHON_TAG)
            )
            self.tokens = CallTokens(begin, end, tag, (think,))
        self.tree = LLTokenizer(self.backend.to_str(), eos_token=IM_END)

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, ids: list[int]) -> str:
        return self.backend.decode([i for i in ids if i != self.tokens.optional], skip_special_tokens=False)

    def matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self.tree, grammar)
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def takes(self, grammar: str, text: str) -> str:
        """`yes`, `more` where the answer can't end here, or `no`."""
        matcher, ids = self.matcher(grammar), self.ids(text)
        if matcher.try_consume_tokens(ids) < len(ids):
            return "no"
        return "yes" if matcher.is_accepting() else "more"


@pytest.fixture(scope="module", params=[TEXT_ONLY, WITH_TOKENS])
def vocabulary(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Vocabulary:
    return Vocabulary(tokenizer._backend, added=request.param == WITH_TOKENS)


def grammar(form: CallForm, vocabulary: Vocabulary, *tools: dict[str, Any], **options: Any) -> str:
    return FORMS[form].grammar(plan_of(form, asked(*tools, **options)), vocabulary.tokens)


def hermes(name: str = "get_weather", arguments: str = '{"city": "Oslo"}') -> str:
    return f'{CALL_BEGIN}\n{{"name": "{name}", "arguments": {arguments}}}\n{CALL_END}'


@pytest.mark.parametrize(
    ("text", "auto", "required"),
    [
        ("", "yes", "more"),
        ("Hello", "yes", "no"),
        ("<think>hm</think>", "yes", "no"),
        (f"<think>hm</think>\n\n{hermes()}", "yes", "no"),
        (hermes(), "yes", "yes"),
        (f"I look. {hermes()}", "yes", "no"),
        (hermes(arguments='{"city":"Oslo","days":14}').replace(": ", ":"), "yes", "yes"),
        (hermes("get_time", "{}"), "yes", "yes"),
        (hermes() + "\n" + hermes("get_time", "{}"), "yes", "yes"),
        (hermes() + "\n", "more", "more"),
        (hermes() + "\nand", "no", "no"),
        (hermes(arguments='{"city": "Oslo", "days": 15}'), "no", "no"),
        (hermes(arguments='{"town": "Oslo"}'), "no", "no"),
        (hermes(arguments='{"city": "Oslo", "more": 1}'), "no", "no"),
        (hermes("get_time", '{"a": 1}'), "no", "no"),
        (hermes("get_wind"), "no", "no"),
        ("\n".join([hermes()] * 16), "yes", "yes"),
        ("\n".join([hermes()] * 17), "no", "no"),
        (f"a < b {CALL_BEGIN[:-1]} ", "yes", "no"),
    ],
)
def test_calls_between_marks(vocabulary: Vocabulary, text: str, auto: str, required: str) -> None:
    for form in (CallForm.HERMES, CallForm.GENERIC):
        assert vocabulary.takes(grammar(form, vocabulary), text) == auto
        assert vocabulary.takes(grammar(form, vocabulary, choice="required"), text) == required


def llama(name: str = "get_weather", arguments: str = '{"city": "Oslo"}') -> str:
    return f'{{"name": "{name}", "parameters": {arguments}}}'


@pytest.mark.parametrize(
    ("text", "auto", "required"),
    [
        ("Hello", "yes", "no"),
        ('{"city": "Oslo"}', "yes", "no"),
        (llama(), "yes", "yes"),
        ("\n\n" + llama(), "yes", "yes"),
        (llama().replace("{", '{\n  "type": "function",\n  ', 1), "yes", "yes"),
        (llama("get_wind"), "yes", "no"),
        (llama() + " ", "no", "no"),
        (llama(arguments='{"town": 1}'), "no", "no"),
        ('{"name": "get_weather", "arg', "no", "no"),
        (f"I call {llama()}", "yes", "no"),
    ],
)
def test_bare_calls(vocabulary: Vocabulary, text: str, auto: str, required: str) -> None:
    assert vocabulary.takes(grammar(CallForm.LLAMA, vocabulary), text) == auto
    assert vocabulary.takes(grammar(CallForm.LLAMA, vocabulary, choice="required"), text) == required
    if vocabulary.tokens.optional is not None and text == llama():
        assert vocabulary.takes(grammar(CallForm.LLAMA, vocabulary), PYTHON_TAG + text) == auto


def test_a_named_function_is_called_once_and_nothing_else(vocabulary: Vocabulary) -> None:
    named = grammar(CallForm.HERMES, vocabulary, choice="required", only="get_time")
    assert vocabulary.takes(named, hermes("get_time", "{}")) == "yes"
    assert vocabulary.takes(named, hermes()) == "no"
    assert vocabulary.takes(named, hermes("get_time", "{}") + "\n") == "no"
    single = grammar(CallForm.HERMES, vocabulary, parallel=False)
    assert vocabulary.takes(single, hermes()) == "yes"
    assert vocabulary.takes(single, hermes() + "\n") == "no"


def test_what_arguments_may_be() -> None:
    assert json.loads(schema_of({"name": "f"})) | {"x-guidance": 0} == {
        "x-guidance": 0, "type": "object", "properties": {}, "additionalProperties": False,
    }  # fmt: skip
    open_schema = {"properties": {"a": {}}, "additionalProperties": True, "x-guidance": {"lenient": False}}
    made = json.loads(schema_of({"name": "f", "parameters": open_schema}))
    assert made["additionalProperties"] is True
    assert made["x-guidance"]["lenient"] is True, "not the client's own"
    more: dict[str, Any] = {"properties": {"a": {}}}
    for unclear in (
        {"type": "object"},
        more | {"required": ["b"]},
        more | {"required": [["a"]]},
        more | {"$ref": "#/x"},
    ):
        assert "additionalProperties" not in json.loads(schema_of({"name": "f", "parameters": unclear}))
    assert "lenient" not in json.loads(schema_of({"name": "f", "strict": True}))["x-guidance"]


TRICKY = {
    "type": "function",
    "function": {
        "name": "tricky-1",
        "parameters": {
            "$defs": {"side": {"enum": ["a/b", 'say "x"', "# no comment", "<tool_call>", "\\"]}},
            "properties": {"s # //": {"$ref": "#/$defs/side"}, "n": {"type": ["integer", "null"]}},
            "required": ["s # //", "n"],
        },
    },
}


def walk(vocabulary: Vocabulary, grammar: str, rng: np.random.Generator, num_tokens: int) -> tuple[str, bool]:
    """A random answer, and whether it ended by itself. Wherever there is a choice, what ends things is likelier."""
    matcher, ids = vocabulary.matcher(grammar), []
    liked = {IM_END, *b'"}<{', vocabulary.tokens.begin, vocabulary.tokens.end}
    for _ in range(num_tokens):
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        weights = np.array([20.0 if token in liked else 1.0 for token in allowed.tolist()])
        token = int(rng.choice(allowed, p=weights / weights.sum()))
        if token == IM_END:
            return vocabulary.text(ids), True
        assert matcher.consume_token(token), matcher.get_error()
        ids.append(token)
    return vocabulary.text(ids), False


@pytest.mark.parametrize("form", list(CallForm))
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_random_answers_are_read(vocabulary: Vocabulary, form: CallForm, choice: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tools = asked(WEATHER, CLOCK, TRICKY, choice=choice)
    schemas = {
        tool["function"]["name"]: tool["function"].get("parameters", {"properties": {}, "additionalProperties": False})
        for tool in (WEATHER, CLOCK, TRICKY)
    }
    grammar = FORMS[form].grammar(plan_of(form, tools), vocabulary.tokens)
    rng, num_whole, num_calls = np.random.default_rng(1), 0, 0
    for _ in range(25):
        text, ended = walk(vocabulary, grammar, rng, 400)
        (parser,) = parsers_of(form, tools, 1)
        assert parser is not None
        content, calls, is_open = read(parser, text)
        for name, arguments in calls[: len(calls) - is_open]:
            jsonschema.validate(json.loads(arguments), schemas[name])
        num_calls += len(calls)
        num_whole += ended
        if ended:
            assert not is_open
            assert choice == "auto" or (calls and not content)
            assert content == text or calls
    assert num_whole > 5
    assert num_calls > 5 or choice == "auto"
