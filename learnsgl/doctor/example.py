"""A made-up Python environment whose C++ library is too old for a package in it, for a lesson and for the tests.

The files are ELF libraries without code: just the tables that the dynamic linker reads before it loads one, which are
all that `doctor --prefix` looks at. No compiler is needed to make them, and nothing can run them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from learnsgl.doctor.elf import (
    DT_NULL,
    DT_SONAME,
    DT_STRSZ,
    DT_STRTAB,
    DT_VERDEF,
    DT_VERDEFNUM,
    DT_VERNEED,
    DT_VERNEEDNUM,
    PT_DYNAMIC,
    PT_LOAD,
    VER_FLG_WEAK,
)

LIBRARY = "libstdc++.so.6"
_EHDR_BYTES, _PHDR_BYTES = 64, 56
_SHARED_OBJECT, _X86_64 = 3, 62


def make_broken_prefix(folder: Path, *, newest: int = 29, wanted: int = 31, package: str = "fast_kernels") -> Path:
    """Make an environment with the fault `GLIBCXX_3.4.31 not found`, as conda's were in early 2026.

    Args:
        folder: where to make it.
        newest: its libstdc++ ends at `GLIBCXX_3.4.<newest>`.
        wanted: the package asks for `GLIBCXX_3.4.<wanted>`.
        package: the name of the package.

    Returns:
        `folder`, for `learnsgl doctor --prefix`.
    """
    site = folder / "lib" / "python3.12" / "site-packages" / package
    site.mkdir(parents=True)
    (folder / "conda-meta").mkdir()
    offered = ["GLIBCXX_3.4", *(f"GLIBCXX_3.4.{number}" for number in range(1, newest + 1)), "CXXABI_1.3"]
    (folder / "lib" / LIBRARY).write_bytes(elf_library(LIBRARY, defined=offered))
    asked = {LIBRARY: ["GLIBCXX_3.4", f"GLIBCXX_3.4.{wanted}"], "libc.so.6": ["GLIBC_2.17"]}
    (site / "_kernels.cpython-312-x86_64-linux-gnu.so").write_bytes(elf_library("_kernels.so", needed=asked))
    (site / "__init__.py").write_text("from . import _kernels\n")
    return folder


def elf_library(
    soname: str,
    *,
    defined: Sequence[str] = (),
    needed: Mapping[str, Sequence[str]] | None = None,
    weak: frozenset[str] = frozenset(),
) -> bytes:
    """An ELF library that holds symbol versions and nothing else.

    Args:
        soname: its name.
        defined: versions that it offers.
        needed: versions that it asks for, by library.
        weak: which of those it can do without.
    """
    strings = _Strings()
    tags = {DT_SONAME: strings.index(soname)}
    tables: dict[int, bytes] = {}
    if defined:
        tables[DT_VERDEF] = _verdef(defined, strings)
        tags[DT_VERDEFNUM] = len(defined)
    if needed:
        tables[DT_VERNEED] = _verneed(needed, weak, strings)
        tags[DT_VERNEEDNUM] = len(needed)
    tables[DT_STRTAB] = strings.data
    tags[DT_STRSZ] = len(strings.data)
    body = b""
    for tag, table in tables.items():
        tags[tag] = _EHDR_BYTES + 2 * _PHDR_BYTES + len(body)
        body += table + b"\0" * (-len(table) % 8)
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in [*tags.items(), (DT_NULL, 0)])
    return _with_headers(body, dynamic)


def _with_headers(body: bytes, dynamic: bytes) -> bytes:
    """The file: its header, two program headers, the tables, and the dynamic section at the end."""
    start = _EHDR_BYTES + 2 * _PHDR_BYTES
    at, end = start + len(body), start + len(body) + len(dynamic)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident,
        _SHARED_OBJECT,
        _X86_64,
        1,
        0,
        _EHDR_BYTES,
        0,
        0,
        _EHDR_BYTES,
        _PHDR_BYTES,
        2,
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", PT_LOAD, 4, 0, 0, 0, end, end, 4096)
    section = struct.pack("<IIQQQQQQ", PT_DYNAMIC, 4, at, at, at, len(dynamic), len(dynamic), 8)
    return header + load + section + body + dynamic


def _verdef(defined: Sequence[str], strings: _Strings) -> bytes:
    table = b""
    for number, version in enumerate(defined, start=1):
        following = 28 if number < len(defined) else 0
        table += struct.pack("<HHHHIII", 1, 0, number, 1, 0, 20, following)
        table += struct.pack("<II", strings.index(version), 0)
    return table


def _verneed(needed: Mapping[str, Sequence[str]], weak: frozenset[str], strings: _Strings) -> bytes:
    table = b""
    for number, (library, versions) in enumerate(needed.items(), start=1):
        following = 16 * (1 + len(versions)) if number < len(needed) else 0
        table += struct.pack("<HHIII", 1, len(versions), strings.index(library), 16, following)
        for place, version in enumerate(versions, start=1):
            flags = VER_FLG_WEAK if version in weak else 0
            follows = 16 if place < len(versions) else 0
            table += struct.pack("<IHHII", 0, flags, place, strings.index(version), follows)
    return table


class _Strings:
    """A string table that grows."""

    def __init__(self) -> None:
        self.data = b"\0"

    def index(self, text: str) -> int:
        """Add a string; where it begins."""
        start = len(self.data)
        self.data += text.encode() + b"\0"
        return start
