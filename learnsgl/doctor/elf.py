"""Read the symbol versions of an ELF library: those that it defines, and those that it asks of others.

`libstdcxx.py` calls it for the C++ library that the interpreter loads and for every compiled package. It reads what
the dynamic linker reads (the dynamic section and what that points to), so stripped files are no obstacle, and only
the pages of the file that it needs.

Source: System V ABI, "Dynamic Section"; Linux Standard Base, "Symbol Versioning" (`.gnu.version_d`, `.gnu.version_r`).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_STRTAB, DT_STRSZ, DT_SONAME = 0, 5, 10, 14
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
VER_FLG_WEAK = 2


class ElfError(ValueError):
    """Not a 64-bit ELF library, or one that is cut short."""


@dataclass(frozen=True)
class ElfVersions:
    """The symbol versions of one library.

    Attributes:
        soname: the name that other libraries ask for it by.
        defined: versions that it offers, such as `GLIBCXX_3.4.29`.
        needed: versions that it can't be loaded without, by the name of the library that must define them.
    """

    soname: str | None
    defined: frozenset[str]
    needed: Mapping[str, frozenset[str]]


def read_versions(path: Path) -> ElfVersions:
    """The symbol versions of the library in `path`.

    Raises:
        ElfError: it isn't a 64-bit ELF file, or is broken.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if file.read(5) != b"\x7fELF\x02":
            raise ElfError(f"{path} isn't a 64-bit ELF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Reader(data).versions()
            except (struct.error, IndexError, KeyError, ValueError) as error:
                raise ElfError(f"{path} is a broken ELF file ({type(error).__name__}: {error})") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._order = "<" if data[5] == 1 else ">"
        (table,) = self._unpack("Q", 32)
        entry_size, count = self._unpack("HH", 54)
        headers = [self._unpack("IIQQQQ", table + index * entry_size) for index in range(count)]
        self._loads = [(vaddr, offset, size) for kind, _, offset, vaddr, _, size in headers if kind == PT_LOAD]
        dynamic = [(offset, size) for kind, _, offset, _, _, size in headers if kind == PT_DYNAMIC]
        self._tags = dict(self._read_dynamic(*dynamic[0])) if dynamic else {}

    def versions(self) -> ElfVersions:
        soname = self._text(self._tags[DT_SONAME]) if DT_SONAME in self._tags else None
        return ElfVersions(soname, frozenset(self._definitions()), dict(self._needs()))

    def _unpack(self, form: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + form, self._data, offset)

    def _read_dynamic(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        for at in range(offset, offset + size, 16):
            tag, value = self._unpack("QQ", at)
            if tag == DT_NULL:
                return
            yield tag, value

    def _offset(self, vaddr: int) -> int:
        """Where an address of the loaded library lies in the file."""
        for start, offset, size in self._loads:
            if start <= vaddr < start + size:
                return vaddr - start + offset
        raise ElfError(f"the address {vaddr:#x} lies in no segment")

    def _text(self, index: int) -> str:
        start = self._offset(self._tags[DT_STRTAB]) + index
        if index >= self._tags[DT_STRSZ]:
            raise ElfError(f"the string {index} lies outside of the string table")
        end = self._data.find(b"\0", start)
        if end < 0:
            raise ElfError(f"the string {index} doesn't end")
        return self._data[start:end].decode()

    def _definitions(self) -> Iterator[str]:
        """The names in the chain of `Verdef` entries; the first auxiliary entry of each holds the version's own."""
        if DT_VERDEF not in self._tags:
            return
        at = self._offset(self._tags[DT_VERDEF])
        for _ in range(self._tags[DT_VERDEFNUM]):
            _, _, _, _, _, aux, following = self._unpack("HHHHIII", at)
            yield self._text(self._unpack("II", at + aux)[0])
            at += following

    def _needs(self) -> Iterator[tuple[str, frozenset[str]]]:
        """The chain of `Verneed` entries, one a library, each with a chain of `Vernaux` entries, one a version."""
        if DT_VERNEED not in self._tags:
            return
        at = self._offset(self._tags[DT_VERNEED])
        for _ in range(self._tags[DT_VERNEEDNUM]):
            _, count, file, aux, following = self._unpack("HHIII", at)
            yield self._text(file), frozenset(self._strong_needs(at + aux, count))
            at += following

    def _strong_needs(self, at: int, count: int) -> Iterator[str]:
        for _ in range(count):
            _, flags, _, name, following = self._unpack("IHHII", at)
            if not flags & VER_FLG_WEAK:  # the linker only warns where a weak one is missing
                yield self._text(name)
            at += following
