"""The registry of event kinds as plain JSON: names, fields, types, units, meanings.

Every file of a trace begins with it, so that a program without our code can decode the rest, and
`docs/trace-events.md` is written from it. `segments.py` and `docs.py` call this.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from typing import Any

import msgspec

from learnsgl.trace.events import KINDS, Event


@functools.cache
def registry() -> dict[str, dict[str, Any]]:
    """Every kind by name: its `level`, its `meaning`, and its `fields`, in the order in which they are encoded.

    A field has a `name` and a `type`, and where they say something, a `dtype`, a `unit` and a `meaning`.
    `type` is `int`, `str`, `bool`, `bytes`, `list[str]` and the like, with `| None` where a field may be absent. An
    array is `bytes` with a `dtype`: numpy's name of its little-endian elements.
    """
    return {name: describe(kind) for name, kind in KINDS.items()}


def describe(kind: type[Event]) -> dict[str, Any]:
    """One kind, as `registry` has it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {
        "level": kind.LEVEL.value,
        "meaning": inspect.cleandoc(kind.__doc__ or ""),
        "fields": [_field(name, hints[name]) for name in kind.__struct_fields__],
    }


def array_fields(kind: type[Event]) -> dict[str, str]:
    """The array fields of a kind, each with numpy's name of its dtype."""
    described = registry()[str(kind.__struct_config__.tag)]["fields"]
    return {field["name"]: field["dtype"] for field in described if "dtype" in field}


def _field(name: str, hint: Any) -> dict[str, Any]:
    metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    field: dict[str, Any] = {"name": name, "type": _type_name(hint)}
    for meta in metas:
        extra = {key: value for key, value in (meta.extra or {}).items() if value is not None}
        field |= extra
        if meta.description:
            field["meaning"] = meta.description
    return field


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        return _type_name(typing.get_args(hint)[0])
    if hint is type(None):
        return "None"
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " | ".join(_type_name(arg) for arg in args)
    if args:
        return f"{typing.get_origin(hint).__name__}[{', '.join(_type_name(arg) for arg in args)}]"
    return str(hint.__name__)
