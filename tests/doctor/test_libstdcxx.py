"""The check that finds `GLIBCXX_3.4.31 not found`, on made-up environments and through the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learnsgl import cli
from learnsgl.doctor.example import LIBRARY, elf_library, make_broken_prefix
from learnsgl.doctor.libstdcxx import check_libstdcxx, find_needs, named, newest
from learnsgl.doctor.place import Place, bare_probe, prefix_place
from learnsgl.doctor.report import Status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="libstdc++ is the C++ library of Linux")


def place_with(library: Path | None, site: Path, errors: dict[str, str] | None = None) -> Place:
    site.mkdir(parents=True, exist_ok=True)
    facts = {"libstdcxx": str(library) if library else None, "errors": errors or {}, "torch": None}
    return replace(prefix_place(site, lambda: facts), site_folders=(site,))


def write(path: Path, soname: str, **tables: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(elf_library(soname, **tables))
    return path


def test_the_reports_fault_is_found_through_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = make_broken_prefix(tmp_path / "conda")
    assert cli.main(["doctor", "--prefix", str(prefix)]) == 1
    text = capsys.readouterr().out
    assert text.startswith("fault    libstdcxx")
    assert "GLIBCXX_3.4.31' not found" in text
    assert "ends at GLIBCXX_3.4.29 (GCC 11)" in text
    assert "fast_kernels" in text
    assert "python3" in text
    assert "-m venv" in text
    assert "conda install -c conda-forge 'libstdcxx-ng>=13'" in text


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = make_broken_prefix(tmp_path / "conda")
    assert cli.main(["doctor", "--json", "--prefix", str(prefix)]) == 1
    report = json.loads(capsys.readouterr().out)
    (check,) = report["checks"]
    assert (report["status"], check["check"], check["status"]) == ("fault", "libstdcxx", "fault")
    assert check["facts"]["missing"] == ["GLIBCXX_3.4.31"]
    assert check["facts"]["packages"] == ["fast_kernels"]


def test_a_library_that_is_new_enough_is_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = make_broken_prefix(tmp_path / "conda", newest=31)
    assert cli.main(["doctor", "--prefix", str(prefix)]) == 0
    assert "ends at GLIBCXX_3.4.31; the packages ask for GLIBCXX_3.4.31 at most" in capsys.readouterr().out


def test_versions_are_compared_one_by_one_and_not_by_the_newest_alone(tmp_path: Path) -> None:
    library = write(tmp_path / "lib" / LIBRARY, LIBRARY, defined=["GLIBCXX_3.4", "GLIBCXX_3.4.31"])
    write(tmp_path / "site" / "old" / "a.so", "a", needed={LIBRARY: ["CXXABI_1.3.15"]})
    finding = check_libstdcxx(place_with(library, tmp_path / "site"))
    assert finding.status is Status.FAULT
    assert "CXXABI_1.3.15" in finding.said


def test_a_package_that_brings_its_own_library_under_another_name_asks_for_nothing(tmp_path: Path) -> None:
    write(tmp_path / "site" / "own" / "a.so", "a", needed={"libstdc++-0a1b2c.so.6.0.33": ["GLIBCXX_3.4.33"]})
    write(tmp_path / "site" / "plain.so", "b")
    assert list(find_needs((tmp_path / "site",))) == []


def test_files_that_are_no_libraries_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "script.so").write_text("INPUT(-lm)")
    (tmp_path / "pkg" / "gone.so.6").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "pkg" / "right.so.1.2", "r", needed={LIBRARY: ["GLIBCXX_3.4.9"]})
    (need,) = find_needs((tmp_path,))
    assert (need.package, need.versions) == ("pkg", {"GLIBCXX_3.4.9"})


def test_what_the_loader_itself_says_is_believed(tmp_path: Path) -> None:
    library = write(tmp_path / "lib" / LIBRARY, LIBRARY, defined=["GLIBCXX_3.4"])
    said = "ImportError: /x/libzmq.so: version `GLIBCXX_3.4.32' not found"
    finding = check_libstdcxx(place_with(library, tmp_path / "site", {"zmq": said}))
    assert finding.status is Status.FAULT
    assert said in finding.said


def test_a_missing_library_is_a_fault_only_where_it_is_asked_for(tmp_path: Path) -> None:
    assert check_libstdcxx(place_with(None, tmp_path / "site")).status is Status.OK
    write(tmp_path / "site" / "pkg" / "a.so", "a", needed={LIBRARY: ["GLIBCXX_3.4.9"]})
    assert check_libstdcxx(place_with(None, tmp_path / "site")).status is Status.FAULT


@pytest.mark.parametrize(
    ("folder", "command"),
    [("opt/old-gcc/lib", "unset LD_LIBRARY_PATH"), ("env/lib", "-m venv")],
)
def test_the_remedy_depends_on_whose_library_it_is(folder: str, command: str, tmp_path: Path) -> None:
    library = write(tmp_path / folder / LIBRARY, LIBRARY, defined=["GLIBCXX_3.4"])
    write(tmp_path / "env" / "site" / "pkg" / "a.so", "a", needed={LIBRARY: ["GLIBCXX_3.4.31"]})
    place = replace(place_with(library, tmp_path / "env" / "site"), prefix=tmp_path / "env")
    assert any(command in each for each in check_libstdcxx(place).commands)


def test_the_newest_version_is_the_highest_number() -> None:
    assert newest(iter(["GLIBCXX_3.4.9", "GLIBCXX_3.4.31", "GLIBCXX_3.4", "CXXABI_1.3.15"])) == "GLIBCXX_3.4.31"
    assert newest(iter(["CXXABI_1.3"])) is None
    assert named("GLIBCXX_3.4.31") == "GLIBCXX_3.4.31 (GCC 13.1)"
    assert named("GLIBCXX_3.4.99") == "GLIBCXX_3.4.99"


def test_a_prefix_without_an_interpreter_is_judged_by_the_rule_of_condas_run_path(tmp_path: Path) -> None:
    assert bare_probe(tmp_path)["libstdcxx"] is None
    prefix = make_broken_prefix(tmp_path / "p")
    assert bare_probe(prefix)["libstdcxx"] == str(prefix / "lib" / LIBRARY)


def test_an_interpreter_in_the_prefix_is_asked_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = make_broken_prefix(tmp_path / "p")
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(sys.executable)
    cli.main(["doctor", "--json", "--prefix", str(prefix)])
    facts = json.loads(capsys.readouterr().out)["checks"][0]["facts"]
    assert not facts["library"].startswith(str(prefix)), "this interpreter doesn't load the made-up library"
