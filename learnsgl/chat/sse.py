"""Server-sent events: what each event of a streamed answer carries, from the bytes as they come.

Source: the HTML standard, section 9.2.6, as far as OpenAI-compatible servers use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def event_data(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event.

    Lines end at a line feed only (with a carriage return ahead of it or not). A decoder that splits text wherever
    Unicode sees a line's end would cut JSON in two, since U+2028 may stand in it as it is.

    Args:
        chunks: a stream's bytes, cut anywhere.

    Yields:
        The event's `data` lines, joined; comments and other fields are left out.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line.removeprefix(b"data:").removeprefix(b" ").decode(errors="replace"))
    if data:
        yield "\n".join(data)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
    if rest:
        yield rest
