"""The reader of ELF symbol versions, on libraries made byte by byte, by a compiler, and by nobody."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from learnsgl.doctor.elf import ElfError, read_versions
from learnsgl.doctor.example import elf_library


def test_definitions_and_needs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(
        elf_library("liba.so", defined=["A_1", "A_2"], needed={"libx.so.1": ["X_1", "X_9"], "liby.so": ["Y_3"]})
    )
    versions = read_versions(path)
    assert versions.soname == "liba.so"
    assert versions.defined == {"A_1", "A_2"}
    assert versions.needed == {"libx.so.1": {"X_1", "X_9"}, "liby.so": {"Y_3"}}


def test_a_weak_need_is_no_need(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(elf_library("liba.so", needed={"libx.so": ["X_1", "X_2"]}, weak=frozenset({"X_2"})))
    assert read_versions(path).needed == {"libx.so": {"X_1"}}


def test_a_library_without_versions(tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(elf_library("liba.so"))
    versions = read_versions(path)
    assert (versions.soname, versions.defined, versions.needed) == ("liba.so", frozenset(), {})


@pytest.mark.parametrize("data", [b"", b"INPUT(-lc)\n", b"\x7fELF\x01" + bytes(100), b"\x7fELF\x02\x01" + bytes(10)])
def test_what_is_no_library_is_said_so(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.so"
    path.write_bytes(data)
    with pytest.raises(ElfError, match="ELF"):
        read_versions(path)


def test_a_library_that_is_cut_short_anywhere_is_an_error_or_read_right(tmp_path: Path) -> None:
    data = elf_library("liba.so", defined=["A_1"], needed={"libx.so": ["X_1"]})
    path = tmp_path / "a.so"
    for size in range(0, len(data) - 16, 3):  # the last 16 bytes only mark the end
        path.write_bytes(data[:size])
        with pytest.raises(ElfError):
            read_versions(path)


def test_a_compilers_library_is_read(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    (tmp_path / "a.c").write_text("int first(void) { return 1; }\nint second(void) { return 2; }\n")
    (tmp_path / "a.map").write_text("A_1 { global: first; local: *; };\nA_2 { global: second; } A_1;\n")
    (tmp_path / "b.c").write_text("int second(void);\nint third(void) { return second(); }\n")
    build = [compiler, "-shared", "-fPIC", "-nostdlib"]
    subprocess.run(
        [*build, "a.c", "-Wl,--version-script=a.map,-soname,liba.so.6", "-o", "liba.so"], cwd=tmp_path, check=True
    )
    subprocess.run([*build, "b.c", "-L.", "-la", "-o", "b.so"], cwd=tmp_path, check=True)
    library = read_versions(tmp_path / "liba.so")
    assert library.soname == "liba.so.6"
    assert {"A_1", "A_2"} <= library.defined
    assert read_versions(tmp_path / "b.so").needed == {"liba.so.6": {"A_2"}}
