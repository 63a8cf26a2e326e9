"""Lesson 1.1: its checks with right, wrong and untouched answers, the machine that it breaks, and its figure."""

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest

from learnsgl.doctor.elf import read_versions
from learnsgl.doctor.example import LIBRARY, elf_library
from learnsgl.doctor.libstdcxx import Need, check_libstdcxx, find_needs
from learnsgl.doctor.place import bare_probe, prefix_place
from learnsgl.lessons import environment_machine
from learnsgl.lessons.checks import Outcome
from learnsgl.lessons.environment import check_newest_glibcxx, check_prescribe, reveal_upgrade, sick_report
from learnsgl.lessons.environment_figure import offers_and_asks, read_offers_and_asks
from learnsgl.lessons.environment_machine import (
    age_library,
    doctor,
    linker_search,
    make_machine,
    newest_need,
    number_of,
    run,
    server_needs,
    tidy,
    wrapped,
    write_library,
)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="libstdc++ is the C++ library of Linux")


@pytest.fixture
def machine(tmp_path):
    return make_machine(tmp_path / "machine")


@pytest.fixture
def library(machine):
    return (machine.own / LIBRARY).read_bytes()


def judge(machine):
    return check_libstdcxx(prefix_place(machine.environment, lambda: bare_probe(machine.environment)))


# ---------------------------------------------------------------- the prediction and exercise 1


def test_the_upgrade_is_revealed_only_once_there_is_a_guess():
    hidden = reveal_upgrade(..., False)
    assert hidden.outcome is Outcome.NOT_ATTEMPTED
    assert "same" not in hidden.message
    assert reveal_upgrade("no", False).outcome is Outcome.RIGHT
    assert reveal_upgrade(False, False).outcome is Outcome.RIGHT
    wrong = reveal_upgrade(" Yes", False)
    assert wrong.outcome is Outcome.GUESSED
    assert wrong.message.startswith("no, the error is the same")
    assert reveal_upgrade("perhaps", False).outcome is Outcome.NOT_YET


def names_in(data):
    """As the notebook gives it to its readers."""
    return [name.decode() for name in re.findall(rb"GLIBCXX_[0-9.]+", data)]


def numbers(name):
    return [int(part) for part in name.removeprefix("GLIBCXX_").split(".")]


def newest(data):
    return max(names_in(data), key=numbers, default="")


def test_a_right_search_is_right(library):
    result = check_newest_glibcxx(newest, library)
    assert result.outcome is Outcome.RIGHT
    assert "5 libraries" in result.message


def test_the_untouched_search_is_not_attempted(library):
    assert check_newest_glibcxx(lambda data: ..., library).outcome is Outcome.NOT_ATTEMPTED
    assert check_newest_glibcxx(..., library).outcome is Outcome.NOT_ATTEMPTED


@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda data: max(names_in(data)), "order of the alphabet"),
        (lambda data: names_in(data)[0], "isn't the newest"),
        (lambda data: newest(data).encode(), "`.decode()`"),
        (lambda data: newest(data).removeprefix("GLIBCXX_"), "give the whole name"),
        (lambda data: numbers(newest(data)), "a text is expected"),
        (lambda data: "GLIBCXX_3.4.29", "isn't the name of a version in these bytes"),
        (lambda data: max(names_in(data), key=numbers), "raised ValueError"),
        (lambda data: newest(data) or "none", "an empty text is expected"),
        ("GLIBCXX_3.4.29", "give it without calling it"),
    ],
)
def test_a_wrong_search_gets_the_hint_that_fits(function, hint, library):
    result = check_newest_glibcxx(function, library)
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message
    assert "3.4.100" not in result.message.partition(": ")[2]


# ---------------------------------------------------------------- exercise 2


@pytest.fixture
def sick(machine):
    return sick_report(machine.environment)


def prescribe(report):
    return {one["check"]: one["commands"][0] for one in report["checks"] if one["status"] == "fault"}


@linux_only
def test_the_sick_report_has_faults_a_warning_and_what_is_well(sick):
    assert [one["status"] for one in sick["checks"]] == ["ok", "ok", "warning", "fault", "fault", "fault"]
    (cplusplus,) = [one for one in sick["checks"] if one["check"] == "libstdcxx"]
    assert len(cplusplus["commands"]) > 1


@linux_only
def test_a_right_prescription_is_right(sick):
    result = check_prescribe(prescribe, [sick])
    assert result.outcome is Outcome.RIGHT
    assert result.message.startswith("3 faults of 1 reports")


def test_the_untouched_prescription_is_not_attempted(sick):
    assert check_prescribe(lambda report: ..., [sick]).outcome is Outcome.NOT_ATTEMPTED
    assert check_prescribe(..., [sick]).outcome is Outcome.NOT_ATTEMPTED


@linux_only
@pytest.mark.parametrize(
    ("function", "hint"),
    [
        (lambda r: {one["check"]: one["commands"][0] for one in r["checks"] if one["commands"]}, "memory is no fault"),
        (lambda r: {one["check"]: one["commands"] for one in r["checks"] if one["status"] == "fault"}, "one command"),
        (
            lambda r: {one["check"]: one["commands"][-1] for one in r["checks"] if one["status"] == "fault"},
            "another command of the list",
        ),
        (lambda r: {one["check"]: one["remedy"] for one in r["checks"] if one["status"] == "fault"}, "isn't a command"),
        (lambda r: {"libstdcxx": prescribe(r)["libstdcxx"]}, "2 of 3 faults are missing"),
        (lambda r: {one["said"]: one["commands"] for one in r["checks"]}, "is no check of this report"),
        (lambda r: list(prescribe(r).values()), "a dict is expected"),
        (lambda r: prescribe(r) or {"python": "reboot"}, "python is no fault"),
        (lambda r: r["fault"], "raised KeyError"),
    ],
)
def test_a_wrong_prescription_gets_the_hint_that_fits(function, hint, sick):
    result = check_prescribe(function, [sick])
    assert result.outcome is Outcome.NOT_YET
    assert hint in result.message


@linux_only
def test_no_hint_gives_a_command_away(sick):
    for function in (lambda r: {}, lambda r: {one["check"]: "?" for one in r["checks"] if one["status"] == "fault"}):
        message = check_prescribe(function, [sick]).message
        assert not [command for command in prescribe(sick).values() if command in message]


# ---------------------------------------------------------------- the made-up machine


@linux_only
def test_only_the_library_that_comes_first_matters(machine):
    assert judge(machine).status == "fault"
    write_library(machine.system, newest=40)
    assert judge(machine).status == "fault"
    write_library(machine.own, newest=33)
    assert judge(machine).status == "ok"


def test_versions_as_numbers():
    assert [number_of(name) for name in ("GLIBCXX_3.4", "GLIBCXX_3.4.9", "GLIBCXX_3.4.31")] == [0, 9, 31]
    assert newest_need([]) == 0
    need = Need("p", Path("p.so"), frozenset({"GLIBCXX_3.4.9", "GLIBCXX_3.4.10", "CXXABI_1.3"}))
    assert newest_need([need]) == 10


def test_an_aged_copy_offers_less_and_is_otherwise_the_same(tmp_path):
    source = tmp_path / LIBRARY
    defined = ["GLIBCXX_3.4", "GLIBCXX_3.4.2", "GLIBCXX_3.4.21", "GLIBCXX_3.4.22", "GLIBCXX_3.4.30", "CXXABI_1.3"]
    source.write_bytes(elf_library(LIBRARY, defined=defined))
    copy = age_library(source, tmp_path / "old", newest=21)
    assert copy == tmp_path / "old" / LIBRARY
    assert read_versions(copy).defined >= {"GLIBCXX_3.4", "GLIBCXX_3.4.2", "GLIBCXX_3.4.21", "CXXABI_1.3"}
    assert not read_versions(copy).defined & {"GLIBCXX_3.4.22", "GLIBCXX_3.4.30"}
    assert copy.stat().st_size == source.stat().st_size


# ---------------------------------------------------------------- the real linker


@linux_only
def test_the_real_linker_refuses_the_aged_library_for_one_command(tmp_path, capsys):
    wanted = newest_need(server_needs("numpy"))
    (check,) = doctor("libstdcxx")["checks"]
    old = age_library(Path(check["facts"]["library"]), tmp_path / "old", newest=wanted - 1)
    code, said = run('python -c "import numpy"', library_path=old.parent)
    assert code != 0
    assert f"version `GLIBCXX_3.4.{wanted}' not found" in said
    assert run('python -c "import numpy"')[0] == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "$ learnsgl doctor --json libstdcxx"
    assert shown[1] == f'$ LD_LIBRARY_PATH={old.parent} python -c "import numpy"'


@linux_only
def test_the_linker_tells_where_it_looked():
    found = linker_search("zmq")
    assert len(set(found)) == len(found)
    assert all(rule and file.endswith(LIBRARY) for rule, file in found)
    assert not found or Path(found[-1][1]).is_file()
    assert linker_search("zmq", "no-such-library.so.1") == []


def test_what_the_linker_says_is_read_place_by_place(monkeypatch):
    said = [
        "find library=libm.so.6 [0]; searching", " search cache=/etc/ld.so.cache", "  trying file=/lib/libm.so.6", "",
        "find library=libstdc++.so.6 [0]; searching", " search path=/e/libs\t\t(RPATH from file /e/a.so)",
        "  trying file=/e/libs/libstdc++.so.6", " search path=/x:/y\t\t(LD_LIBRARY_PATH)",
        "  trying file=/x/libstdc++.so.6", "  trying file=/y/libstdc++.so.6", "", "find library=libz.so [0]; searching",
    ]  # fmt: skip
    text = "\n".join(f"     944:\t{line}" for line in said)
    monkeypatch.setattr(environment_machine, "_output_of", lambda words: (0, text))
    assert linker_search("zmq") == [
        ("RPATH from file /e/a.so", "/e/libs/libstdc++.so.6"),
        ("LD_LIBRARY_PATH", "/y/libstdc++.so.6"),
    ]
    assert linker_search("zmq", "libm.so.6") == [("the cache /etc/ld.so.cache", "/lib/libm.so.6")]


def test_a_command_that_never_ends_is_ended(monkeypatch):
    monkeypatch.setattr(environment_machine, "TIMEOUT_S", 0.2)
    assert run('python -c "import signal; signal.pause()"')[0] != 0


def test_the_report_comes_as_a_dict(monkeypatch):
    monkeypatch.setattr(environment_machine, "_output_of", lambda words: (1, f"a note\n{json.dumps({'status': 'ok'})}"))
    assert doctor("python") == {"status": "ok"}


def test_paths_of_this_machine_are_shortened():
    text = (
        f"{sys.prefix}/lib/a.so {Path.home()}/.cache/m /usr/lib/x86_64-linux-gnu/b.so /lib64/c.so /usr/bin/gcc "
        f"{Path.cwd()}/scratch/d.so {tempfile.gettempdir()} (/var/folders/e.so) /etc/ld.so.cache /dev/shm "
        "http://127.0.0.1:8000/v1 and/or"
    )
    assert tidy(text) == (
        "<environment>/lib/a.so ~/.cache/m <system>/lib/x86_64-linux-gnu/b.so <system>/lib64/c.so <system>/bin/gcc "
        "scratch/d.so <temp> (…e.so) /etc/ld.so.cache /dev/shm http://127.0.0.1:8000/v1 and/or"
    )


def test_long_lines_are_wrapped_and_paths_left_whole():
    path = "lib/site-packages/" + "x" * 120
    assert wrapped(f"said:   {path} is broken") == f"said:\n        {path}\n        is broken"


# ---------------------------------------------------------------- the figure


def test_the_figure_shows_who_lacks_what(machine):
    needs = list(find_needs((machine.environment / "lib/python3.12/site-packages",)))
    libraries = {"own": machine.own / LIBRARY, "system": machine.system / LIBRARY}
    figure, data = offers_and_asks(libraries, needs)
    assert [(offer.label, offer.newest, offer.is_loaded) for offer in data.offers] == [
        ("own", 29, True), ("system", 33, False),
    ]  # fmt: skip
    assert [(ask.package, ask.versions, ask.lacking) for ask in data.asks] == [
        ("text_tools", (0, 21), ()), ("messages", (0, 26), ()), ("fast_kernels", (0, 31), (31,)),
    ]  # fmt: skip
    title = figure.texts[0].get_text()
    assert title == "fast_kernels asks for GLIBCXX_3.4.31 (GCC 13.1), and what is loaded ends at 3.4.29 (GCC 11)"
    _, turned = offers_and_asks(dict(reversed(libraries.items())), needs)
    assert not [ask for ask in turned.asks if ask.lacking]


def test_versions_of_other_families_are_not_drawn(tmp_path):
    file = tmp_path / LIBRARY
    file.write_bytes(
        elf_library(LIBRARY, defined=["GLIBCXX_3.4", "GLIBCXX_3.4.9", "CXXABI_1.3.15", "GLIBCXX_LDBL_3.4"])
    )
    data = read_offers_and_asks({"x": file}, [Need("p", file, frozenset({"CXXABI_1.3.15", "GLIBCXX_3.4.11"}))])
    assert data.loaded.newest == 9
    assert data.asks[0].versions == data.asks[0].lacking == (11,)
    with pytest.raises(ValueError, match="no library was given"):
        read_offers_and_asks({}, [])
