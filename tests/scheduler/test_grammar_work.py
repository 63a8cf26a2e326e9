"""Grammars that would overflow a stack or take minutes: each is compiled on a deep stack, or refused at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from learnsgl.core import Grammar, GrammarKind
from learnsgl.errors import RequestError
from learnsgl.grammar_work import MAX_MULTIPLE, MAX_RULES, endless_work, on_deep_stack
from learnsgl.tokenizer.tool_request import fault_of
from tests.scheduler.grammar_world import make_grammars


def chain(length: int, link: Callable[[dict[str, str]], Any]) -> str:
    """A schema of definitions, each of which refers to the next."""
    links = {str(index): link({"$ref": f"#/$defs/{index + 1}"}) for index in range(length)}
    return json.dumps({"$ref": "#/$defs/0", "$defs": links | {str(length): {"type": "string"}}})


LINKS: dict[str, Callable[[dict[str, str]], Any]] = {
    "properties": lambda ref: {"type": "object", "properties": {"x": ref}},
    "anyOf": lambda ref: {"anyOf": [{"type": "null"}, ref]},
    "references": lambda ref: ref,
}


@pytest.mark.parametrize("name", LINKS)
def test_a_long_chain_of_references_ends_no_process(name: str) -> None:
    schema = chain(1_600, LINKS[name])  # on a stack of 8 MiB, most of these are the end
    compiled = make_grammars().compile(Grammar(GrammarKind.JSON_SCHEMA, schema))
    assert make_grammars().start(compiled).error is None
    assert fault_of(schema) == ""


def test_a_chain_of_rules_is_bounded() -> None:
    def rules(count: int) -> Grammar:
        lines = ["start: a0", *(f"a{index}: a{index + 1}" for index in range(count - 2)), f'a{count - 2}: "x"']
        return Grammar(GrammarKind.LARK, "\n".join(lines))

    make_grammars().compile(rules(MAX_RULES))
    with pytest.raises(RequestError, match=rf"has {MAX_RULES + 1} rules, and at most {MAX_RULES} are allowed"):
        make_grammars().compile(rules(MAX_RULES + 1))
    ebnf = "\n".join(["root ::= r0", *(f"r{index} ::= r{index + 1}" for index in range(MAX_RULES))])
    assert endless_work(ebnf) is not None


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "integer", "multipleOf": 999983}',
        '{"allOf": [{"type": "integer", "multipleOf": 997}, {"multipleOf": 991}]}',
        r'{"type": "integer", "m\u0075ltipleOf" : 999983}',
        '{"type": "integer", "multipleOf": 9.99983E5}',
        '{"type": "integer", "multipleOf": ' + "7" * 9_000 + "}",
        '{"type": "number", "multipleOf": 0.00999983}',
    ],
)
def test_numbers_that_would_be_followed_for_minutes_are_refused(schema: str) -> None:
    with pytest.raises(RequestError, match=f"may be at most {MAX_MULTIPLE}") as caught:
        make_grammars().compile(Grammar(GrammarKind.JSON_SCHEMA, schema))
    assert caught.value.code == "invalid_grammar"
    assert str(MAX_MULTIPLE) in fault_of(schema), "a tool's parameters, too"
    assert endless_work(f"start: %json {schema}") is not None


@pytest.mark.parametrize("value", ["5", "0.01", "1000000", "1e-9", "0.25", "1e999999999", "0", "-", "1.2.3", "null"])
def test_usual_multiples_and_malformed_ones_are_left_to_the_compiler(value: str) -> None:
    assert endless_work(f'{{"type": "number", "multipleOf": {value}}}') is None


def test_a_property_of_that_name_is_none() -> None:
    assert endless_work('{"properties": {"multipleOf": {"type": "integer"}, "a:": {"minimum": 999983}}}') is None


def test_what_is_raised_on_a_deep_stack_comes_through_and_later_threads_have_the_usual_one() -> None:
    before = threading.stack_size()

    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        on_deep_stack(fail)
    assert on_deep_stack(threading.current_thread) is not threading.current_thread()
    assert threading.stack_size() == before


def test_no_room_for_a_thread_is_told_and_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    grammars, grammar = make_grammars(), Grammar(GrammarKind.REGEX, "no room [a-z]")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RequestError, match="no memory for compiling") as caught:
            grammars.compile(grammar)
    assert caught.value.status == 503
    assert grammars.compile(grammar).grammar == grammar
