"""A request with tools, as the tokenizer worker completes it: with the grammar of its answer.

`tokenizer_worker.py` calls it. Schemas are checked here, where it is known which tool one belongs to; the scheduler
compiles the whole grammar.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec
from llguidance import LLMatcher

from learnsgl.core import Grammar, GrammarKind, SamplingParams
from learnsgl.errors import RequestError
from learnsgl.grammar_work import endless_work, on_deep_stack
from learnsgl.message.types import ToolChoice, ToolsMsg
from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.tokenizer.tool_forms import FORMS, CallForm, names_of, plan_of
from learnsgl.tokenizer.tool_grammar import content_schema

_MAX_SHOWN = 400
"""Characters of llguidance's words that an error repeats; they may quote the schema."""


def constrained(sampling: SamplingParams, asked: ToolsMsg, tokenizer: Tokenizer) -> SamplingParams:
    """The sampling parameters with the grammar that `asked` means for this model's form of calls.

    A grammar that they have already is one of JSON, and holds for an answer that calls nothing.

    Raises:
        RequestError: a schema can't be a grammar, or this model's calls can't be told from JSON.
    """
    if asked.choice is ToolChoice.NONE:
        return sampling
    form = tokenizer.call_form
    plan = plan_of(form, asked)
    names = names_of(asked)
    for function in plan.functions:
        _check(function.schema, f"tools[{names.index(function.name)}].function.parameters")
    if sampling.grammar is not None and not plan.needs_call:
        plan = replace(plan, content=_content(sampling.grammar, form))
    text = FORMS[form].grammar(plan, tokenizer.call_tokens)
    return msgspec.structs.replace(sampling, grammar=Grammar(GrammarKind.LARK, text))


def _content(grammar: Grammar, form: CallForm) -> str:
    """The schema of an answer that calls nothing."""
    if not FORMS[form].takes_json:
        raise RequestError(
            "this model writes a call as an answer of JSON, so the form of other answers can't be asked for as well; "
            "leave it out, or set tool_choice to none",
            code="unsupported", param="grammar",
        )  # fmt: skip
    given: Any = {"type": "object"}
    if grammar.kind is GrammarKind.JSON_SCHEMA:
        try:
            given = msgspec.json.decode(grammar.text)
        except msgspec.DecodeError:
            given = None
    if not isinstance(given, dict):
        raise RequestError("the JSON schema isn't a JSON object", code="invalid_grammar", param="grammar")
    schema = content_schema(given)
    _check(schema, "grammar")
    return schema


def _check(schema: str, param: str) -> None:
    if reason := fault_of(schema):
        noun = "the JSON schema" if param == "grammar" else param
        raise RequestError(
            f"{noun} can't be made a grammar: {' '.join(reason.split())[:_MAX_SHOWN]}; change the schema",
            code="invalid_grammar", param=param,
        )  # fmt: skip


@lru_cache(maxsize=256)
def fault_of(schema: str) -> str:
    """Why a schema can't be a grammar; empty if it can. An agent sends the same schemas with every turn."""
    return endless_work(schema) or on_deep_stack(
        lambda: LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
    )
