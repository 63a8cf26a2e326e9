"""The forms in which models write tool calls: for each its grammar, its parser, and a call as text.

The tokenizer worker finds out which form the model's chat template speaks (`tool_prompt.py`) and makes the grammar of a
request; the API server reads the answer with the same form's parser.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from learnsgl.message.types import ToolChoice, ToolsMsg
from learnsgl.tokenizer import tool_grammar
from learnsgl.tokenizer.tool_grammar import CallTokens, FunctionRule
from learnsgl.tokenizer.tool_parser import BareParser, CallParser, MarkedParser

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
"""A special token that Llama may write before a call."""
MARKS = frozenset({CALL_BEGIN, CALL_END})
"""Tokens that are always text, even where a tokenizer calls them special: without them no call could be read."""


class CallForm(StrEnum):
    """How the model writes a call."""

    HERMES = "hermes"
    """`<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`; the template tells the tools.
    Nous Hermes, Qwen 2.5, Qwen 3."""
    LLAMA = "llama"
    """The answer is a JSON object with `name` and `parameters`; the template tells the tools. Llama 3.1 and 3.2."""
    GENERIC = "generic"
    """Hermes' form, where the template knows nothing of tools, or speaks a form that isn't known here: a system
    message tells the tools and the form."""


@dataclass(frozen=True)
class CallPlan:
    """What an answer may hold.

    Attributes:
        functions: those that it may call, with their arguments.
        needs_call: whether it is to be calls, and nothing else.
        max_calls: most calls of one answer.
        content: schema of an answer that calls nothing, as JSON text for `%json`; `None`: any text.
    """

    functions: tuple[FunctionRule, ...]
    needs_call: bool
    max_calls: int
    content: str | None = None


class Form(Protocol):
    """What each form can do."""

    max_calls: int
    """Most calls of one answer."""
    takes_json: bool
    """Whether a call can be told from an answer that is JSON itself."""

    def grammar(self, plan: CallPlan, tokens: CallTokens) -> str:
        """The grammar of an answer, in llguidance's Lark."""
        ...

    def parser(self, names: Collection[str]) -> CallParser:
        """A parser for one answer; `names` are the functions that there are."""
        ...


class _Marked:
    """Calls between `<tool_call>` and `</tool_call>`, several of them, maybe after other text."""

    max_calls = 16
    takes_json = True

    def grammar(self, plan: CallPlan, tokens: CallTokens) -> str:
        if plan.content is not None and not plan.needs_call:
            return tool_grammar.marked_or_json(
                plan.functions, plan.content, plan.max_calls, CALL_BEGIN, CALL_END, tokens
            )
        return tool_grammar.marked(plan.functions, plan.needs_call, plan.max_calls, CALL_BEGIN, CALL_END, tokens)

    def parser(self, names: Collection[str]) -> CallParser:
        return MarkedParser(CALL_BEGIN, CALL_END)


class _Bare:
    """One call that is the whole answer."""

    max_calls = 1
    takes_json = False

    def grammar(self, plan: CallPlan, tokens: CallTokens) -> str:
        return tool_grammar.bare(plan.functions, plan.needs_call, tokens)

    def parser(self, names: Collection[str]) -> CallParser:
        return BareParser(names)


FORMS: dict[CallForm, Form] = {
    CallForm.HERMES: _Marked(), CallForm.LLAMA: _Bare(), CallForm.GENERIC: _Marked(),
}  # fmt: skip


def plan_of(form: CallForm, asked: ToolsMsg) -> CallPlan:
    """What the answer to a request with tools may hold; its `choice` isn't `none`."""
    functions = [tool["function"] for tool in tools_of(asked)]
    names = [asked.only] if asked.only is not None else [function["name"] for function in functions]
    rules = tuple(
        FunctionRule(function["name"], tool_grammar.schema_of(function))
        for function in functions
        if function["name"] in names
    )
    is_single = asked.only is not None or not asked.parallel
    return CallPlan(rules, asked.choice is ToolChoice.REQUIRED, 1 if is_single else FORMS[form].max_calls)


def tools_of(asked: ToolsMsg) -> list[dict[str, Any]]:
    """The tools of a request as objects."""
    return [msgspec.json.decode(tool) for tool in asked.tools]


def parsers_of(form: CallForm, asked: ToolsMsg | None, num_answers: int) -> list[CallParser | None]:
    """A parser for each answer to a request; `None` where it can hold no calls."""
    if asked is None or asked.choice is ToolChoice.NONE:
        return [None] * num_answers
    names = frozenset(names_of(asked))
    return [FORMS[form].parser(names) for _ in range(num_answers)]


def names_of(asked: ToolsMsg) -> Sequence[str]:
    """The names of a request's functions."""
    return [tool["function"]["name"] for tool in tools_of(asked)]
