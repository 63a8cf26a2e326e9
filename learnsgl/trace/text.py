"""Events without their text: what `learnsgl trace pack` writes of a recording that was made at level `tokens`.

An event that holds prompts, answers or token ids stays where it is, so that numbers have no gap, but its texts are
empty and its ids are -1. The header of each file then says so; `verify` reads that and proves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from learnsgl.config import TraceLevel
from learnsgl.errors import TraceFormatError
from learnsgl.trace.events import Event
from learnsgl.trace.reader import Trace
from learnsgl.trace.schema import registry

TEXT_KEY = "text"
"""Key of a file's header (and of the manifest) that tells of removed text."""
REMOVED = "removed"
TEXT_LEVEL = TraceLevel.TOKENS.value

_KEPT = frozenset({"ns", "uid", "uids", "choice", "choices", "step"})
"""Fields of an event with text that say whose it is and when, and nothing of what it says."""


def is_text_removed(trace: Trace) -> bool:
    """Whether the trace was recorded at level `tokens` and packed without its text."""
    return any(trace.process(name).fact(TEXT_KEY) == REMOVED for name in trace.processes)


def is_without_text(event: Event) -> bool:
    """Whether an event of level `tokens` has lost its text and its token ids."""
    encoded = msgspec.msgpack.encode(event)
    return bytes(TextRemover({}, "").remove(msgspec.Raw(encoded), "")) == encoded


class TextRemover:
    """Removes text from the encoded events of one file.

    Args:
        header: the file's header. Its registry may name kinds that this version doesn't know.
        where: the file, for messages.

    Raises:
        TraceFormatError: the registry in the header isn't one.
    """

    def __init__(self, header: Mapping[str, Any], where: str) -> None:
        kinds = header.get("kinds") or {}
        try:
            # what either registry calls text is text
            levels = [(name, kind["level"]) for known in (registry(), kinds) for name, kind in known.items()]
            names = {name for name, level in levels if level == TEXT_LEVEL}
            described = {**kinds, **registry()}  # fields are only ever added at the end
            self._fields = {name: [field["name"] for field in described[name]["fields"]] for name in sorted(names)}
        except (AttributeError, KeyError, TypeError):
            raise TraceFormatError(
                f"{where}: the header doesn't describe its kinds of events as a trace does, so nothing says which of "
                "them hold text; pack it --with-text"
            ) from None
        self._others = frozenset(described) - frozenset(self._fields)
        self._is_of_text = header.get("level") == TEXT_LEVEL
        self._marks = [name.encode() for name in self._fields]

    def concerns(self, payload: bytes) -> bool:
        """Whether text may be in a frame's payload, so that its events must be looked at one by one."""
        return self._is_of_text or any(mark in payload for mark in self._marks)

    def remove(self, raw: msgspec.Raw, where: str) -> msgspec.Raw:
        """The event as it is where its kind holds no text, and else without it.

        Args:
            raw: the encoded event.
            where: its file and frame, for the message.

        Raises:
            TraceFormatError: nothing says what the event holds, since its kind is in no registry.
        """
        event = msgspec.msgpack.decode(raw)
        kind = event[0] if isinstance(event, list) and event and isinstance(event[0], str) else None
        if kind in self._others:
            return raw
        if kind not in self._fields:
            raise TraceFormatError(
                f"{where}: an event of the kind {kind!r}, which the file's header doesn't describe, so nothing says "
                "whether it holds text; pack it --with-text, or with the version that recorded it"
            )
        names = [*self._fields[kind], *("" for _ in event)]  # fields of a newer version have no name here
        values = [value if name in _KEPT else _blank(value) for name, value in zip(names, event[1:], strict=False)]
        return msgspec.Raw(msgspec.msgpack.encode([kind, *values]))


def _blank(value: Any) -> Any:
    """A value of the same type and length that tells nothing; every element of an array becomes -1."""
    match value:
        case str():
            return ""
        case bytes():
            return b"\xff" * len(value)
        case list():
            return [_blank(item) for item in value]
        case dict():
            return {}
        case bool() | None:
            return None if value is None else False
        case int():
            return -1
        case _:
            return 0.0
