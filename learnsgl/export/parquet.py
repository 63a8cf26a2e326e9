"""A folder of Parquet tables, compressed with zstd, for pandas, DuckDB, Polars and the like.

`formats.py` calls `write_parquet`. `tables.py` has the columns and makes the rows; here they are gathered and written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from learnsgl.errors import FolderError
from learnsgl.export.output import refuse_existing
from learnsgl.export.recording import Facts, Progress, facts_of, read_through
from learnsgl.export.tables import TABLES, Column, Row, TableRows
from learnsgl.trace.reader import Trace

GROUP_ROWS = 1 << 15
"""Rows that are gathered before they are written as a row group."""
_TYPES = {
    "word": pa.dictionary(pa.int32(), pa.string()), "text": pa.string(), "int": pa.int64(), "float": pa.float64(),
    "bool": pa.bool_(), "ints": pa.list_(pa.int64()),
}  # fmt: skip


def write_parquet(
    trace: Trace, folder: Path, *, with_text: bool = False, force: bool = False, progress: Progress | None = None
) -> int:
    """Write a trace as a folder of tables, `events.parquet` and the others of `TABLES`.

    Each file's metadata has the run, and under `learnsgl.clock` the anchor by which `ns` becomes wall-clock time.

    Returns:
        The size of all tables, in bytes.

    Raises:
        FolderError: the folder exists and `force` isn't given, or it can't be written. With `force`, only files with
            the tables' names are replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{folder}: is a file; parquet makes a folder of tables, name another one")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise FolderError(f"{folder}: exists already; name another folder, or replace its tables with --force")
    for name in TABLES:
        refuse_existing(folder / f"{name}.parquet", force=force)
    is_new = not folder.is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _part_files(folder) as parts:
            _write_tables(trace, parts, with_text, progress)
            for name, part in parts.items():
                part.replace(folder / f"{name}.parquet")
    except OSError as error:
        raise FolderError(f"{folder}: can't be written: {error.strerror or error}") from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it stays unless it is empty
                folder.rmdir()
    return sum((folder / f"{name}.parquet").stat().st_size for name in TABLES)


@contextlib.contextmanager
def _part_files(folder: Path) -> Iterator[dict[str, Path]]:
    """A file for each table, which is removed if it hasn't been renamed by the end."""
    parts = {name: folder / f"{name}.parquet.part" for name in TABLES}
    try:
        yield parts
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _write_tables(trace: Trace, parts: dict[str, Path], with_text: bool, progress: Progress | None) -> None:
    facts = facts_of(trace)
    rows = TableRows(trace, with_text=with_text)
    with contextlib.ExitStack() as stack:
        tables = {name: stack.enter_context(_Table(parts[name], columns, facts)) for name, columns in TABLES.items()}
        for name, row in read_through(trace, rows.take, progress):
            tables[name].add(row)
        for name, row in rows.rest():
            tables[name].add(row)


class _Table:
    """One file, to which rows are added; closed by `with`."""

    def __init__(self, path: Path, columns: tuple[Column, ...], facts: Facts) -> None:
        fields = [
            pa.field(column.name, _TYPES[column.type], metadata={"meaning": column.meaning}) for column in columns
        ]
        metadata = {f"learnsgl.{name}": msgspec.json.encode(value) for name, value in facts.metadata.items()}
        metadata["learnsgl.clock"] = msgspec.json.encode([anchor.to_json() for anchor in facts.anchors])
        self._schema = pa.schema(fields, metadata=metadata)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush()
        finally:
            self._writer.close()

    def add(self, row: Row) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(values, type=field.type) for values, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._rows.clear()
