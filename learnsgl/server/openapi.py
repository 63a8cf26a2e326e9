"""The server's OpenAPI document: every route, and the bodies that it takes, from the schemas that the parsers use.

`make_app` of `api_server.py` serves it at `/openapi.json`. What a schema can't say, `docs/api.md` does: which fields go
together, and which fields beside these are accepted because they ask for nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.routing import BaseRoute, Route

from learnsgl import __version__
from learnsgl.server.limits import Limits
from learnsgl.server.openai import ChatCompletionRequest, CompletionRequest
from learnsgl.server.openapi_ranges import add_ranges
from learnsgl.server.operator_routes import TraceStartRequest
from learnsgl.server.parse_generate import GenerateRequest, GenerateSampling
from learnsgl.server.tool_routes import AbortRequest, DetokenizeRequest, TokenizeRequest

PATH = "/openapi.json"
BODIES: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/generate": GenerateRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/abort_request": AbortRequest,
    "/trace/start": TraceStartRequest,
}
"""What is sent to each route that wants a body."""
_OPTIONAL = ("/trace/start",)
"""Routes whose body may also be empty."""

_REFERENCE = "#/components/schemas/{name}"
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def openapi_document(routes: Iterable[BaseRoute], model: str, limits: Limits) -> bytes:
    """The document, in OpenAPI 3.1, as JSON.

    Args:
        routes: the app's routes.
        model: the name of the model that is served, the only one that a body may hold.
        limits: what one request may ask for.
    """
    (*bodies, _), components = msgspec.json.schema_components(
        (*BODIES.values(), GenerateSampling), ref_template=_REFERENCE
    )
    _refer(components["GenerateRequest"]["properties"]["sampling_params"])
    for name in (body.__name__ for body in BODIES.values()):
        component = components[name]
        component["additionalProperties"] = False
        if "model" in component.get("properties", {}):
            is_needed = "model" in component.get("required", ())
            component["properties"]["model"] = {"enum": [model] if is_needed else [model, None]}
    components[GenerateSampling.__name__]["additionalProperties"] = False
    add_ranges(components, max_choices=limits.max_choices)
    schemas = dict(zip(BODIES, bodies, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if isinstance(route, Route):
            path = route.path.replace(":path}", "}")
            for method in sorted((route.methods or set()) - {"HEAD"}):
                body = schemas.get(route.path) if method == "POST" else None
                operation = _operation(route, body, is_required=route.path not in _OPTIONAL)
                paths.setdefault(path, {})[method.lower()] = operation
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "learnsgl", "version": __version__},
            "paths": paths,
            "components": {"schemas": {**components, "Error": _ERROR}},
        }
    )


def _refer(field: dict[str, Any]) -> None:
    """`sampling_params` are parsed one by one, so the schema of the body doesn't know what is in them."""
    one = {"$ref": _REFERENCE.format(name=GenerateSampling.__name__)}
    field["anyOf"] = [one, {"type": "array", "items": one}, {"type": "null"}]


def _operation(route: Route, body: dict[str, Any] | None, *, is_required: bool) -> dict[str, Any]:
    summary = (inspect.getdoc(route.endpoint) or route.name).splitlines()[0]
    error = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="Error")}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "done"}, "default": {"description": "refused", "content": error}},
    }
    if body is not None:
        operation["requestBody"] = {"required": is_required, "content": {"application/json": {"schema": body}}}
    if route.param_convertors:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in route.param_convertors
        ]
    return operation
