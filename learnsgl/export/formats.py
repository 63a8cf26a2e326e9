"""`export_trace`: a recording in a format of other tools. Each format's own file is loaded only when it is asked for.

`command.py` calls this for `learnsgl trace export`, and notebooks through `learnsgl.export`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from learnsgl.config import TraceLevel
from learnsgl.errors import OptionError, StartupError
from learnsgl.export.output import Target, Writable, writing
from learnsgl.export.recording import Progress, notes_of
from learnsgl.trace.reader import Trace
from learnsgl.trace.source import PACKED_SUFFIX

__all__ = ["ExportFormat", "default_path", "export_trace", "notes_of"]

Writer = Callable[[Writable], None]


class ExportFormat(StrEnum):
    """A format of other tools."""

    PERFETTO = "perfetto"
    CHROME = "chrome"
    OTLP = "otlp"
    PARQUET = "parquet"
    JSONL = "jsonl"


_SUFFIXES = {
    ExportFormat.PERFETTO: ".pftrace", ExportFormat.CHROME: ".chrome.json", ExportFormat.OTLP: ".otlp.pb",
    ExportFormat.PARQUET: ".parquet", ExportFormat.JSONL: ".jsonl",
}  # fmt: skip
_LIBRARIES = {
    ExportFormat.PERFETTO: ("perfetto", "perfetto"), ExportFormat.PARQUET: ("pyarrow", "pyarrow"),
    ExportFormat.OTLP: ("opentelemetry.proto", "opentelemetry-proto"),
}  # fmt: skip
"""The module that a format needs, and the package that has it."""
JSON_SUFFIXES = (".json", ".jsonl")


def export_trace(
    trace: Trace,
    format: ExportFormat | str,
    path: Target | str,
    *,
    as_json: bool = False,
    with_text: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write a recording in a format of other tools.

    Args:
        trace: the recording. Cut off, or without its first events, it gives what is there: see `notes_of`.
        format: perfetto, chrome, otlp, parquet or jsonl.
        path: the file to make, compressed where its name ends in `.gz`; for parquet the folder. Also an open binary
            stream, but for parquet.
        as_json: with otlp, JSON rather than protobuf, as a name that ends in `.json` or `.jsonl` asks for too.
        with_text: prompts and answers too, which the trace has at level `tokens` only.
        force: replace what is there.
        progress: called now and then with the events that were read, and all there are.

    Returns:
        The size of what was written, in bytes.

    Raises:
        OptionError: an unknown format, or one that these options don't fit.
        StartupError: the library of the format isn't installed.
        FolderError: something is there already, or it can't be written.
        TraceFormatError: a frame of the trace is broken; no file is left then.
    """
    chosen = _checked_format(format)
    target = Path(path) if isinstance(path, str) else path
    if with_text and trace.level != TraceLevel.TOKENS:
        raise OptionError(
            f"text was asked for, and {trace.path} is of level {trace.level or 'unknown'}, which holds none; record "
            "with --trace-level tokens, or leave --with-text out"
        )
    if as_json and chosen is not ExportFormat.OTLP:
        raise OptionError(f"JSON was asked for with format {chosen}; only otlp has two forms, leave --json out")
    _need_library(chosen)
    if chosen is ExportFormat.PARQUET:
        if not isinstance(target, Path):
            raise OptionError("parquet makes a folder of tables, so it can't go to a stream; name a folder")
        from learnsgl.export.parquet import write_parquet

        return write_parquet(trace, target, with_text=with_text, force=force, progress=progress)
    write = _writer(trace, chosen, target, as_json=as_json, with_text=with_text, progress=progress)
    with writing(target, force=force) as output:
        write(output)
    return output.num_bytes


def default_path(trace: Trace, format: ExportFormat, *, as_json: bool = False) -> Path:
    """Where an export goes that nobody named: beside the recording."""
    stem = trace.path.name.removesuffix(PACKED_SUFFIX)
    suffix = ".otlp.json" if as_json and format is ExportFormat.OTLP else _SUFFIXES[format]
    return trace.path.with_name(stem + suffix)


def is_text(format: ExportFormat, *, as_json: bool) -> bool:
    """Whether a format may go to a terminal."""
    return format in (ExportFormat.CHROME, ExportFormat.JSONL) or (format is ExportFormat.OTLP and as_json)


def _checked_format(format: str) -> ExportFormat:
    try:
        return ExportFormat(format)
    except ValueError:
        raise OptionError(f"the format is {format!r}; choose from: {', '.join(ExportFormat)}") from None


def _need_library(format: ExportFormat) -> None:
    if format not in _LIBRARIES:
        return
    module, package = _LIBRARIES[format]
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is missing too
        is_there = False
    if not is_there:
        raise StartupError(f"the format {format} needs {package}: pip install 'learnsgl[export]'")


def _writer(
    trace: Trace, format: ExportFormat, target: Target, *, as_json: bool, with_text: bool, progress: Progress | None
) -> Writer:
    """The writer of a format that is one file or stream, ready to be given its output."""
    if format is ExportFormat.PERFETTO:
        from learnsgl.export.perfetto import write_perfetto

        return lambda output: write_perfetto(trace, output, with_text=with_text, progress=progress)
    if format is ExportFormat.CHROME:
        from learnsgl.export.chrome import write_chrome

        return lambda output: write_chrome(trace, output, with_text=with_text, progress=progress)
    if format is ExportFormat.JSONL:
        from learnsgl.export.jsonl import write_jsonl

        return lambda output: write_jsonl(trace, output, with_text=with_text, progress=progress)
    from learnsgl.export.otlp import OtlpForm, write_otlp

    name = target.name.removesuffix(".gz") if isinstance(target, Path) else ""
    form = OtlpForm.PROTOBUF
    if as_json or name.endswith(JSON_SUFFIXES):
        form = OtlpForm.JSON_LINES if name.endswith(".jsonl") else OtlpForm.JSON
    return lambda output: write_otlp(trace, output, form, with_text=with_text, progress=progress)
