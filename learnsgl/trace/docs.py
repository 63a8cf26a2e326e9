"""Writes `docs/trace-events.md` from the registry of event kinds: `python -m learnsgl.trace.docs`.

A test compares the file with `render()` and fails when it is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from learnsgl.config import TraceLevel
from learnsgl.trace.frames import FORMAT_VERSION, HEADER, MAGIC, MAX_PAYLOAD_BYTES
from learnsgl.trace.recorder import FRAME_EVENTS, FRAME_NS, MAX_PENDING_EVENTS
from learnsgl.trace.schema import registry

DOCS_FILE = Path(__file__).parents[2] / "docs" / "trace-events.md"

FAMILIES = {
    "process": "The life of the processes",
    "http": "At the API server's door",
    "msg": "ZMQ messages, in pairs",
    "tok": "Text to tokens",
    "detok": "Tokens to text",
    "req": "A request's life",
    "sched": "The scheduler's decisions",
    "batch": "Work for the device, as the scheduler sees it",
    "page": "Pages of KV cache",
    "cache": "The prefix cache",
    "engine": "The device",
    "graph": "CUDA graphs",
    "clock": "The device's clock and the host's",
    "trace": "The recording itself",
}

INTRODUCTION = """\
# The trace: its files and its events

This page is written by `python -m learnsgl.trace.docs` from the registry in `learnsgl/trace/events.py`; change it
there. It is precise enough to write a reader in another language. In ours, it is
`learnsgl.trace.reader.Trace.open(path)`; on the command line, `learnsgl trace cat PATH` prints JSON lines.

## A run's folder

`<root>/<UTC date and time>-<run id>/` holds

- `manifest.json`: run id, command, configuration, versions, hardware, and both clocks of the host read at the same
  moment (`clock.monotonic_ns`, `clock.time_ns`);
- `<process>.<k>.trace`: the files (segments) of each process, `k` counting from 1. When one is full the process goes
  on in the next. With a limit on size the oldest files are removed, whichever process wrote them, and the newest of
  each process stays; so a process whose files begin at `k` > 1 has lost its first events, and that is no error.

A packed trace (`learnsgl trace pack`) is a zip file of the same files, stored without compression; its frames are
fewer and larger. Unless `--with-text` was given, a recording of level `tokens` is packed without its text: each event
of that level keeps its place, its moment, its step and its requests, while its texts are empty and its token ids are
-1. The headers of the files, and the manifest, then have the entry `"text": "removed"`, and `learnsgl trace verify`
proves it.

## A file: frames

A file is a sequence of frames and nothing else. A frame is a header of {header_size} bytes and a payload. All integers
are little-endian.

| offset | bytes | field | meaning |
| --- | --- | --- | --- |
| 0 | 4 | magic | `{magic}` |
| 4 | 2 | version | unsigned; {version} |
| 6 | 1 | kind | 1: the file's header, the first frame of each file; 2: events; skip others |
| 7 | 1 | flags | bit 0: the payload is a zstd frame that states its content size |
| 8 | 4 | payload length | unsigned, bytes as stored; at most {max_payload}, which also bounds the decompressed size |
| 12 | 4 | payload CRC32 | of the payload as stored (the CRC of zlib and PNG) |
| 16 | 8 | first | unsigned; number of the frame's first event |
| 24 | 8 | last | unsigned; number of its last event; `first - 1` in a frame without events |
| 32 | 8 | first ns | signed; moment of its first event |
| 40 | 4 | header CRC32 | of the {crc_offset} bytes before it |

- The first frame's payload is a JSON object: `format` (`learnsgl-trace`), `version`, `run_id`, `process`, `role`,
  `pid`, `level`, `segment` (k), `first` (number of the file's first event), `clock` (as in the manifest, read when the
  file was begun) and `kinds`, the registry on this page, so that a file can be decoded by itself.
- The payload of a frame of events is a MessagePack array of events. An event is an array `[kind, ns, field, ...]`, the
  fields in the order below. Newer versions may add fields at the end; skip kinds and fields that you don't know.
- An array field is MessagePack `bin`: little-endian elements of the given dtype. Arrays of one event that name
  requests, rows or tokens one by one have the same length. Absent things are -1 inside arrays and nil alone.
- Moments are nanoseconds of the host's monotonic clock, which all processes share.
- Each process numbers its events from 1 without gaps, through all its files. Where events were lost, one
  `trace.dropped` stands right behind the gap and names it.
- Each frame is written by a single `write`. A file that ends within a frame was cut there (a killed process, a full
  disk), and so was one that goes on with zeros (a power failure): what comes before is whole. A frame that is all
  there but has a wrong CRC is damage.
- A process writes what is pending when {frame_events} events or {frame_ms} ms have gathered and it would wait anyway,
  and in any case at {max_pending} events. A killed process loses only what it had not written.

## Levels

Each level holds all of the one before it: {levels}. Text and token ids are recorded at
`tokens` only.
"""


def render() -> str:
    """The text of `docs/trace-events.md`."""
    kinds = registry()
    numbers = {
        "header_size": HEADER.size,
        "crc_offset": HEADER.size - 4,
        "max_payload": MAX_PAYLOAD_BYTES,
        "frame_events": FRAME_EVENTS,
        "frame_ms": FRAME_NS // 1_000_000,
        "max_pending": MAX_PENDING_EVENTS,
    }
    levels = ", ".join(f"`{level}`" for level in TraceLevel)
    parts = [INTRODUCTION.format(magic=MAGIC.decode(), version=FORMAT_VERSION, levels=levels, **numbers)]
    for family in dict.fromkeys(name.partition(".")[0] for name in kinds):
        parts.append(f"## {family}.*: {FAMILIES[family]}\n")
        parts += [_kind(name, kind) for name, kind in kinds.items() if name.partition(".")[0] == family]
    return "\n".join(parts)


def _kind(name: str, kind: dict[str, Any]) -> str:
    lines = [
        f"### `{name}`\n",
        f"{' '.join(kind['meaning'].split())} Level `{kind['level']}`.\n",
        "| field | type | unit | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field in kind["fields"]:
        type_name = f"{field['dtype']} array" if "dtype" in field else field["type"].replace("|", "\\|")
        meaning = field.get("meaning", "").replace("|", "\\|")
        lines.append(f"| `{field['name']}` | {type_name} | {field.get('unit', '')} | {meaning} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file."""
    DOCS_FILE.write_text(render(), encoding="utf-8")
    print(DOCS_FILE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
