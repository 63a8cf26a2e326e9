"""What `make gpu-check` plans: what is missing on a machine, how it is brought there, and what runs in which time."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("gpu_bundle")


@pytest.fixture(scope="module")
def check(bundle: ModuleType) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module("gpu_check")


def test_nothing_is_missing_where_the_tests_run(bundle: ModuleType) -> None:
    requirements = bundle.read_requirements(ROOT / "pyproject.toml")
    assert {"torch", "triton", "pyzmq", "pytest", "openai"} <= {one.name for one in requirements}
    assert bundle.missing(requirements, bundle.installed_here()) == []


def test_what_is_missing_or_too_old_is_named(bundle: ModuleType) -> None:
    requirements = bundle.read_requirements(ROOT / "pyproject.toml")
    there = {one.name: one.bounds[0][1] for one in requirements} | {"torch": "2.11.0+cu130", "msgspec": "0.18.9"}
    del there["pyzmq"]
    assert [one.name for one in bundle.missing(requirements, there)] == ["pyzmq", "msgspec"]


@pytest.mark.parametrize(
    ("version", "holds"),
    [("2.11.0+cu130", True), ("2.11", True), ("2.13.1", True), ("2.14.0", False), ("2.9.1", False), ("2", False)],
)
def test_bounds(bundle: ModuleType, version: str, holds: bool) -> None:
    assert bundle.parse_requirement("torch>=2.11,<2.14").is_met_by(version) == holds


def test_a_requirement_of_another_form_is_refused(bundle: ModuleType) -> None:
    assert bundle.parse_requirement("Py_Zmq").name == "py-zmq"
    assert bundle.parse_requirement("triton>=3.6,<3.10; sys_platform == 'linux'").is_met_by("3.9.0")
    with pytest.raises(ValueError, match="isn't a name with version bounds"):
        bundle.parse_requirement("torch @ file:///somewhere")


def test_transfers_hold_all_files_once_and_none_too_much(bundle: ModuleType) -> None:
    sizes = {"a": 50, "b": 30, "c": 30, "d": 10, "e": 5}
    shares = bundle.transfers(sizes, 60)
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert all(sum(sizes[name] for name in share) <= 60 for share in shares)
    assert len(shares) == 3
    assert bundle.transfers({}, 60) == []
    with pytest.raises(ValueError, match="cut it into pieces first"):
        bundle.transfers({"a": 61}, 60)


def test_a_file_is_cut_and_joined(bundle: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "model-1.0-py3-none-any.whl"
    content = bytes(range(256)) * 10
    file.write_bytes(content)
    assert bundle.cut(file, 2560) == [file]
    pieces = bundle.cut(file, 1000)
    assert [piece.stat().st_size for piece in pieces] == [1000, 1000, 560]
    assert not file.exists()
    held = pieces[1].read_bytes()
    pieces[1].unlink()
    with pytest.raises(FileNotFoundError, match="piece-2-of-3 is missing"):
        bundle.join(tmp_path)
    pieces[1].write_bytes(held)
    assert bundle.join(tmp_path) == [file]
    assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_the_plan_fits_what_there_is(check: ModuleType, tmp_path: Path) -> None:
    every = check.plan(tmp_path, ["offline", "kernels", "online"])
    names = [part.name for part in every]
    assert len(names) == len(set(names))
    assert names[0] == "tests"
    assert {f"record-{name}" for name in check.RECORDINGS} < set(names)
    fewer = [part.name for part in check.plan(tmp_path, ["kernels"])]
    assert set(names) - set(fewer) == {"offline-decode", "offline-throughput", "online"}


def test_every_recording_of_the_plan_is_in_the_catalogue(check: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "traces")
        catalogue = importlib.import_module("recordings.gpu")
        assert set(check.RECORDINGS) == set(catalogue.GPU_RECORDINGS)
    for name in [name for name in sys.modules if name.partition(".")[0] == "recordings"]:
        del sys.modules[name]


def test_the_commands_of_the_plan_are_understood(check: ModuleType, tmp_path: Path) -> None:
    import argparse

    from learnsgl.bench.command import add_bench_command

    parser = argparse.ArgumentParser()
    add_bench_command(parser.add_subparsers())
    for part in check.plan(tmp_path, ["offline", "kernels", "online"]):
        if part.command[:2] == ("-m", "learnsgl"):
            assert parser.parse_args(part.command[2:]).bench == part.command[3]


def test_learnsgl_needs_no_installation(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PYTHONPATH", "before")
    check._introduce(tmp_path / "site")
    (found,) = [one for one in check.installed_here() if one == "learnsgl"]
    assert check.installed_here()[found] == "0.1.0"
    assert check.os.environ["PYTHONPATH"].split(check.os.pathsep) == [str(tmp_path / "site"), "before"]


def test_one_failure_leaves_the_others_alone(check: ModuleType, tmp_path: Path) -> None:
    clock, told = [0.0], []

    def run(part: object, log: Path, limit_s: float) -> tuple[str, str]:
        clock[0] += min(part.limit_s, limit_s)  # type: ignore[attr-defined]
        return ("failed", "exit code 3") if part.name == "b" else ("passed", "")  # type: ignore[attr-defined]

    parts = [
        check.Part("a", (), 100), check.Part("b", (), 50), check.Part("m", (), 5, needs_model=True),
        check.Part("c", (), 100), check.Part("d", (), 100),
    ]  # fmt: skip
    outcomes = check.run_all(
        parts, tmp_path, 210, has_model=False, now=lambda: clock[0], run=run, tell=told.append
    )  # fmt: skip
    assert [(one.name, one.result) for one in outcomes] == [
        ("a", "passed"), ("b", "failed"), ("m", "left out"), ("c", "passed"), ("d", "left out"),
    ]  # fmt: skip
    assert outcomes[3].seconds == 60  # what was left
    assert outcomes[4].note == "only 0 s were left"
    assert len(told) == len(json.loads((tmp_path / "summary.json").read_text())) == 5
    assert check.exit_code(outcomes) == 1
    assert check.exit_code([outcomes[0]]) == 0
    assert check.exit_code([]) == 1


def test_a_part_has_its_own_time_and_log(check: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "part.txt"
    assert check._run_process(check.Part("good", ("-c", "print('ready')"), 60), log, 60) == ("passed", "")
    assert log.read_text() == "ready\n"
    result, note = check._run_process(check.Part("bad", ("-c", "raise SystemExit('broken')"), 60), log, 60)
    assert (result, note) == ("failed", "exit code 1; part.txt ends: broken")
    result, note = check._run_process(check.Part("slow", ("-c", "import time; time.sleep(60)"), 60), log, 0.2)
    assert result == "timed out"
