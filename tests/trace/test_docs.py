"""`docs/trace-events.md` is up to date, and precise enough to read a trace without our code."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from learnsgl.trace.docs import DOCS_FILE, FAMILIES, render
from learnsgl.trace.events import KINDS
from learnsgl.trace.reader import Trace
from learnsgl.trace.schema import registry
from learnsgl.trace.show import to_json
from tests.trace.story import tell, write


def test_the_page_is_not_stale() -> None:
    text = DOCS_FILE.read_text(encoding="utf-8")
    assert text == render(), "docs/trace-events.md is stale; write it anew with: python -m learnsgl.trace.docs"


def test_every_kind_and_field_is_on_the_page() -> None:
    text = render()
    for name, kind in KINDS.items():
        section = text.split(f"### `{name}`\n")[1].split("\n### ")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(kind.__struct_fields__)
        assert len(section.strip().splitlines()[0]) > 20, f"{name} has no meaning"
    assert {name.partition(".")[0] for name in KINDS} <= set(FAMILIES)


def test_fields_have_types_and_arrays_their_dtype() -> None:
    fields = {field["name"]: field for field in registry()["sched.step"]["fields"]}
    assert fields["lens"] == {
        "name": "lens", "type": "bytes", "dtype": "int32", "unit": "tokens",
        "meaning": "tokens in each run; a decode run has one",
    }  # fmt: skip
    assert fields["digest"]["type"] == "int | None"
    assert fields["ns"]["unit"] == "ns"
    assert {f["name"]: f["type"] for f in registry()["trace.keyframe"]["fields"]}["columns"] == "dict[str, bytes]"
    assert {f["name"]: f["type"] for f in registry()["req.finished"]["fields"]}["reasons"] == "list[str]"


def read_by_the_page(path: Path) -> list[dict[str, Any]]:
    """A reader written from the page alone: frames, the registry in the header, arrays by their dtype."""
    data, offset, kinds, found = path.read_bytes(), 0, {}, []
    while offset < len(data):
        head = data[offset : offset + 44]
        magic, version, kind, flags, length, crc, first, last, _ = struct.unpack("<4sHBBIIQQq", head[:40])
        assert (magic, version) == (b"lsgT", 1)
        assert struct.unpack("<I", head[40:])[0] == zlib.crc32(head[:40])
        payload = data[offset + 44 : offset + 44 + length]
        assert zlib.crc32(payload) == crc
        offset += 44 + length
        if flags & 1:
            payload = zstandard.ZstdDecompressor().decompress(payload)
        if kind == 1:
            kinds = json.loads(payload)["kinds"]
            continue
        events = msgspec.msgpack.decode(payload)
        assert len(events) == last - first + 1
        for number, (name, *values) in enumerate(events, start=first):
            fields = {}
            for field, value in zip(kinds[name]["fields"], values, strict=True):
                dtype = np.dtype(field["dtype"]).newbyteorder("<") if "dtype" in field else None
                fields[field["name"]] = value if dtype is None else np.frombuffer(value, dtype).tolist()
            found.append({"process": path.name.split(".")[0], "event": number, "kind": name, **fields})
    return found


def test_the_page_is_enough_to_read_a_trace(tmp_path: Path) -> None:
    folder = write(tmp_path, tell())
    for name in tell():
        ours = [to_json(entry) for entry in Trace.open(folder).events(name)]
        assert read_by_the_page(folder / f"{name}.1.trace") == ours
