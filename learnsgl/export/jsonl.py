"""JSON lines: every event of a trace, one a line, merged by time, as `learnsgl trace cat` prints them.

`formats.py` calls `write_jsonl`. Nothing is gathered, so a trace may be larger than memory.
"""

from __future__ import annotations

import msgspec

from learnsgl.export.output import Writable
from learnsgl.export.recording import Progress, fields_of, read_through
from learnsgl.trace.reader import Entry, Trace


def write_jsonl(trace: Trace, output: Writable, *, with_text: bool = False, progress: Progress | None = None) -> None:
    """Write a trace as JSON lines; events of level `tokens` come without text and token ids unless they are wanted."""
    encoder = msgspec.json.Encoder()

    def line(entry: Entry) -> tuple[bytes]:
        return (encoder.encode(fields_of(entry, with_text=with_text)) + b"\n",)

    for data in read_through(trace, line, progress):
        output.write(data)
