"""A request with tools, as the tokenizer worker completes it: with the grammar of its answer.

`tokenizer_worker.py` calls it. Schemas are checked here, where it is known which tool one belongs to; the scheduler
compiles the whole grammar.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from llguidance import LLMatcher

from learnsgl.core import Grammar, GrammarKind, SamplingParams
from learnsgl.errors import RequestError
from learnsgl.message.types import ToolChoice, ToolsMsg
from learnsgl.tokenizer.tokenize import Tokenizer
from learnsgl.tokenizer.tool_forms import FORMS, names_of, plan_of

_MAX_SHOWN = 400
"""Characters of llguidance's words that an error repeats; they may quote the schema."""


def constrained(sampling: SamplingParams, asked: ToolsMsg, tokenizer: Tokenizer) -> SamplingParams:
    """The sampling parameters with the grammar that `asked` means for this model's form of calls.

    Raises:
        RequestError: a function's schema can't be a grammar.
    """
    if asked.choice is ToolChoice.NONE:
        return sampling
    plan = plan_of(tokenizer.call_form, asked)
    names = names_of(asked)
    for function in plan.functions:
        if reason := fault_of(function.schema):
            param = f"tools[{names.index(function.name)}].function.parameters"
            raise RequestError(
                f"{param} can't be made a grammar: {' '.join(reason.split())[:_MAX_SHOWN]}; change the schema",
                code="invalid_grammar",
                param=param,
            )
    text = FORMS[tokenizer.call_form].grammar(plan, tokenizer.call_tokens)
    return msgspec.structs.replace(sampling, grammar=Grammar(GrammarKind.LARK, text))


@lru_cache(maxsize=256)
def fault_of(schema: str) -> str:
    """Why a schema can't be a grammar; empty if it can. An agent sends the same schemas with every turn."""
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
