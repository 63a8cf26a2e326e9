"""What a client says of the form of its answer, in OpenAI's words, vLLM's and SGLang's, as a `core.Grammar`.

The parsers call it. Whether the grammar can be followed is found where it is compiled, in the scheduler's process
(`scheduler/grammar.py`); here are its outer form, and that there is only one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from learnsgl.core import Grammar, GrammarKind
from learnsgl.errors import RequestError
from learnsgl.server.body import shown
from learnsgl.server.openai import Constrained, ResponseFormat, StructuredOutputs


class AnswerForm(NamedTuple):
    """The grammar of an answer, and the field that it came from, for errors that only the scheduler finds."""

    grammar: Grammar | None
    param: str


FREE = AnswerForm(None, "response_format")


def read_form(fields: Constrained) -> AnswerForm:
    """The grammar that the fields of an OpenAI route ask for.

    Raises:
        RequestError: there is more than one, or one is malformed.
    """
    found = [_of_response_format(fields.response_format), *_of_structured_outputs(fields.structured_outputs)]
    guided = {"json": fields.guided_json, "regex": fields.guided_regex, "grammar": fields.guided_grammar,
              "choice": fields.guided_choice}  # fmt: skip
    found += _of_values(guided, "guided_")
    return _only(found)


def read_generate_form(
    json_schema: str | dict[str, Any] | None, regex: str | None, ebnf: str | None, path: str
) -> Grammar | None:  # fmt: skip
    """The grammar that SGLang's sampling parameters ask for; `path` leads to them.

    Raises:
        RequestError: as `read_form`.
    """
    given = {"json_schema": json_schema, "regex": regex, "ebnf": ebnf}
    return _only([AnswerForm(_READ[name](value, path + name), path + name) for name, value in given.items()
                  if value is not None]).grammar  # fmt: skip


_JSON = (GrammarKind.JSON_OBJECT, GrammarKind.JSON_SCHEMA)


def refuse_with_tools(form: AnswerForm, has_tools: bool) -> None:
    """An answer that may call tools has a grammar of its own, of which JSON can be a part.

    Raises:
        RequestError: tools are asked for, and a form that isn't JSON.
    """
    if has_tools and form.grammar is not None and form.grammar.kind not in _JSON:
        raise RequestError(
            f"{form.param} can't be combined with tools in one request, as a form of JSON can; leave one of them out, "
            "or set tool_choice to none",
            code="unsupported", param=form.param,
        )  # fmt: skip


def _only(found: list[AnswerForm]) -> AnswerForm:
    forms = [form for form in found if form.grammar is not None]
    if len(forms) > 1:
        names = " and ".join(form.param for form in forms)
        raise RequestError(f"{names} each ask for a form of the answer; give only one of them", param=forms[1].param)
    return forms[0] if forms else FREE


def _of_response_format(given: ResponseFormat | None) -> AnswerForm:
    if given is None or given.type == "text":
        return FREE
    if given.type == "json_object":
        if given.schema is None:
            return AnswerForm(Grammar(GrammarKind.JSON_OBJECT), "response_format")
        return AnswerForm(_schema(given.schema, "response_format.schema"), "response_format.schema")
    if given.type != "json_schema":
        raise RequestError(
            f"response_format.type is {shown(given.type)!r}; it must be text, json_object or json_schema",
            param="response_format.type",
        )
    if given.json_schema is None or given.json_schema.schema is None:
        param = "response_format.json_schema" + ("" if given.json_schema is None else ".schema")
        raise RequestError(f"the field {param} is missing", code="missing_required_parameter", param=param)
    param = "response_format.json_schema.schema"
    return AnswerForm(_schema(given.json_schema.schema, param), param)


def _of_structured_outputs(given: StructuredOutputs | None) -> list[AnswerForm]:
    if given is None:
        return []
    path = "structured_outputs."
    found = _of_values(
        {"json": given.json, "regex": given.regex, "grammar": given.grammar, "choice": given.choice}, path
    )
    if given.json_object:
        found.append(AnswerForm(Grammar(GrammarKind.JSON_OBJECT), path + "json_object"))
    return found


def _of_values(given: Mapping[str, Any], path: str) -> list[AnswerForm]:
    return [AnswerForm(_READ[name](value, path + name), path + name) for name, value in given.items()
            if value is not None]  # fmt: skip


def _schema(value: Any, param: str) -> Grammar:
    if isinstance(value, str):
        return Grammar(GrammarKind.JSON_SCHEMA, value)
    try:
        return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(value))
    except RecursionError:
        raise RequestError(f"{param} is nested too deeply; make it flatter", param=param) from None


def _regex(value: Any, param: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, value)


def _lark(value: Any, param: str) -> Grammar:
    return Grammar(GrammarKind.LARK, value)


def _choice(value: Any, param: str) -> Grammar:
    if not value:
        raise RequestError(f"{param} is empty; it needs at least one text to choose from", param=param)
    return Grammar(GrammarKind.LARK, "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in value))


_READ: Mapping[str, Callable[[Any, str], Grammar]] = {
    "json": _schema, "json_schema": _schema, "regex": _regex, "grammar": _lark, "ebnf": _lark, "choice": _choice,
}  # fmt: skip
