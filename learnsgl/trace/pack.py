"""One small file out of a run's folder, to be sent to someone or kept in a repository; and back again.

`learnsgl trace pack` and `unpack` call this. A packed file is a zip of the same files. Its frames are joined and
compressed harder, since a server writes many small ones. The events and their numbers stay as they are, but prompts,
answers and token ids are removed from them unless they are asked for. Whatever opens a trace opens a packed file too.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from learnsgl.errors import FolderError, TraceFormatError
from learnsgl.trace.frames import FrameKind, encode_frame
from learnsgl.trace.index import Frame, ProcessIndex, Segment, index_processes
from learnsgl.trace.manifest import MANIFEST_NAME
from learnsgl.trace.reader import read_payload
from learnsgl.trace.segments import segment_name
from learnsgl.trace.source import Source, load_manifest, open_source
from learnsgl.trace.text import REMOVED, TEXT_KEY, TEXT_LEVEL, TextRemover

JOINED_EVENTS = 1 << 16
JOINED_BYTES = 8 << 20
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same trace packs to the same bytes
_RAW = msgspec.msgpack.Decoder(list[msgspec.Raw])
_LONG_PATH = re.compile(r"(?<![\w./:])/(?:[^/\s=,:]+/)+")


def pack(folder: Path, file: Path, *, with_text: bool = False) -> Path:
    """Write a trace into one file.

    Absolute paths in the manifest are cut to their last part, so that the file doesn't tell where you keep your things.

    Args:
        folder: whatever `Trace.open` takes.
        file: the file to write; an existing one is replaced once the new one is complete.
        with_text: keep prompts, answers and token ids, which a trace of level `tokens` holds. Without it their events
            stay, with empty texts and ids of -1, and the manifest and the file's headers say `"text": "removed"`.

    Returns:
        The file.

    Raises:
        FolderError: the file can't be written.
        TraceFormatError: a frame of the trace is broken; or it can't be told whether an event holds text.
    """
    source = open_source(folder)
    temporary = file.with_name(file.name + ".part")
    try:
        indexes = index_processes(source)
        is_cleaned = not with_text and any(index.fact("level") == TEXT_LEVEL for index in indexes.values())
        with zipfile.ZipFile(temporary, "w") as packed:
            facts = without_paths(load_manifest(source)) | ({TEXT_KEY: REMOVED} if is_cleaned else {})
            manifest = json.dumps(facts, indent=2) + "\n"
            packed.writestr(zipfile.ZipInfo(MANIFEST_NAME, _ZIP_TIME), manifest, zipfile.ZIP_DEFLATED)
            for index in indexes.values():
                _pack_process(source, index, packed, with_text)
        temporary.replace(file)
    except OSError as error:
        raise FolderError(f"{file}: can't be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # there is none when all went well
            temporary.unlink()
    return file


def unpack(file: Path, folder: Path) -> Path:
    """Write the files of a packed trace into a new folder.

    Raises:
        FolderError: the folder exists already, or can't be written.
        TraceFormatError: the file isn't a packed trace.
    """
    source = open_source(file)
    names = [segment.name for segment in source.segments()]
    if not names:
        raise TraceFormatError(f"{file}: holds no events")
    try:
        folder.mkdir(parents=True)
        for name in [MANIFEST_NAME, *names] if source.has_manifest() else names:
            with source.open(name) as stream, (folder / name).open("xb") as target:
                while block := stream.read(1 << 20):
                    target.write(block)
    except FileExistsError as error:
        raise FolderError(f"{folder}: exists already; name a folder that doesn't") from error
    except OSError as error:
        raise FolderError(f"{folder}: can't be written: {error.strerror or error}") from error
    return folder


def without_paths(value: Any) -> Any:
    """The same JSON value with every absolute path in its texts cut to its last part."""
    if isinstance(value, str):
        return value.rpartition("/")[2] if value.startswith("/") else _LONG_PATH.sub("", value)
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    return value


def _pack_process(source: Source, index: ProcessIndex, packed: zipfile.ZipFile, with_text: bool) -> None:
    compressor = zstandard.ZstdCompressor(level=19)
    for segment in index.segments:
        if not segment.header:
            continue  # killed while it began the file: nothing is in it
        clock = segment.header.get("clock") or {}
        first = segment.frames[0].header.first if segment.frames else index.last + 1
        is_cleaned = not with_text and segment.header.get("level") == TEXT_LEVEL
        remover = None if with_text else TextRemover(segment.header, f"{source.path}: {segment.file.name}")
        facts = segment.header | ({TEXT_KEY: REMOVED} if is_cleaned else {})
        header = json.dumps(facts, separators=(",", ":")).encode()
        data = [
            encode_frame(FrameKind.SEGMENT, header, first, first - 1, int(clock.get("monotonic_ns", 0)), compressor),
            *(
                encode_frame(FrameKind.EVENTS, payload, first, last, first_ns, compressor)
                for first, last, first_ns, payload in _joined(source, segment, remover)
            ),
        ]
        name = segment_name(index.name, segment.file.index)
        packed.writestr(zipfile.ZipInfo(name, _ZIP_TIME), b"".join(data), zipfile.ZIP_STORED)


def _joined(source: Source, segment: Segment, remover: TextRemover | None) -> Iterator[tuple[int, int, int, bytes]]:
    """Frames that follow each other without a gap, joined: first number, last number, first ns, payload."""
    group: list[Frame] = []
    events: list[msgspec.Raw] = []
    num_bytes = 0
    with source.open(segment.file.name) as stream:
        for frame in segment.frames:
            where = f"{source.path}: {frame.file}, byte {frame.offset}"
            payload = read_payload(stream, frame, where)
            is_full = len(events) >= JOINED_EVENTS or num_bytes + len(payload) > JOINED_BYTES
            if group and (is_full or frame.header.first != group[-1].header.last + 1):
                yield _join(group, events)
                group, events, num_bytes = [], [], 0
            group.append(frame)
            raws = _RAW.decode(payload)
            if remover is not None and remover.concerns(payload):
                raws = [remover.remove(raw, where) for raw in raws]
            events += raws
            num_bytes += len(payload)
    if group:
        yield _join(group, events)


def _join(group: list[Frame], events: list[msgspec.Raw]) -> tuple[int, int, int, bytes]:
    first, last = group[0].header, group[-1].header
    return first.first, last.last, first.first_ns, msgspec.msgpack.encode(events)
