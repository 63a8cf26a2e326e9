"""Every check but that of the C++ library: what it says of a good machine, and of each fault."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from learnsgl.doctor import accelerator, environment, machine, model
from learnsgl.doctor.accelerator import Gpu, judge_gpu, judge_triton, parse_gpu, runs_on
from learnsgl.doctor.checks import CHECKS, Check, run_checks
from learnsgl.doctor.environment import judge_packages, judge_python, judge_venv
from learnsgl.doctor.machine import judge_disk, judge_memory, judge_shared_memory
from learnsgl.doctor.place import Place, Probe, this_place
from learnsgl.doctor.report import Status, as_lines, one_line
from learnsgl.hub import resolve_model

GB = 10**9


def place(tmp_path: Path, *, port: int = 0, torch: dict[str, Any] | None = None) -> Place:
    here = this_place(lambda: {"torch": torch or {}, "errors": {}, "libstdcxx": None}, port=port)
    return Place(here.python, here.prefix, (), here.host, port, tmp_path, tmp_path, here.probe)


# ---------------------------------------------------------------- Python and its packages


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10, 14), "fault"), ((3, 11, 0), "ok"), ((3, 13, 9), "ok"), ((3, 14, 0), "warning")],
)
def test_python(version: tuple[int, ...], status: str) -> None:
    finding = judge_python(version)
    assert finding.status == status
    assert ".".join(map(str, version)) in finding.said


def test_venv(tmp_path: Path) -> None:
    assert judge_venv(tmp_path / "venv", tmp_path).status is Status.OK
    assert judge_venv(tmp_path, tmp_path).status is Status.WARNING
    (tmp_path / "conda-meta").mkdir()
    assert "conda" in judge_venv(tmp_path, tmp_path).said


def test_packages_that_are_right_missing_too_old_or_too_new() -> None:
    assert judge_packages(["pytest>=1", "nothing-like-this>=1; extra == 'x'"]).status is Status.OK
    newer = judge_packages(["pytest>=0.1,<1"])
    assert newer.status is Status.WARNING
    finding = judge_packages(["nothing-like-this>=1", "pytest>=999", "psutil<1,>=0.1"])
    assert finding.status is Status.FAULT
    assert finding.facts["missing"] == ["nothing-like-this"]
    assert finding.facts["too_old"][0].startswith("pytest ")
    assert finding.facts["too_new"][0].startswith("psutil ")
    assert "'nothing-like-this>=1'" in finding.commands[0]
    assert "'pytest>=999'" in finding.commands[0]


def test_the_environment_of_the_tests_has_what_learnsgl_asks_for(tmp_path: Path) -> None:
    assert environment.check_packages(place(tmp_path)).status is not Status.FAULT


# ---------------------------------------------------------------- torch, driver, Triton


@pytest.mark.parametrize(
    ("arch_list", "capability", "fits"),
    [
        (["sm_80", "sm_86"], (8, 6), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),
        (["sm_120"], (12, 0), True),
        (["sm_90a"], (9, 0), True),
        (["compute_90a"], (10, 0), False),
        (["sm_100f"], (10, 3), True),
        (["gfx942"], (9, 0), False),
        ([], (8, 6), False),
    ],
)
def test_which_gpus_code_runs_on(arch_list: list[str], capability: tuple[int, int], fits: bool) -> None:
    assert runs_on(arch_list, capability) is fits


RTX = Gpu("NVIDIA GeForce RTX 3060", "550.54.14", (8, 6), 12288)


def test_a_gpu_that_torch_was_built_for() -> None:
    finding = judge_gpu([RTX], "12.8", [(RTX.name, (8, 6))], ["sm_80", "sm_86"])
    assert finding.status is Status.OK
    assert "550.54.14" in finding.said
    assert judge_gpu([], None, [], []).status is Status.OK


def test_a_gpu_that_torch_was_not_built_for_is_a_fault() -> None:
    finding = judge_gpu([RTX], "12.8", [(RTX.name, (8, 6))], ["sm_90", "sm_100"])
    assert finding.status is Status.FAULT
    assert "compute capability 8.6" in finding.said
    assert "learnsgl serve --device cpu" in finding.commands


def test_a_gpu_that_torch_cannot_use_is_a_warning() -> None:
    for_cpu = judge_gpu([RTX], None, [], [])
    assert for_cpu.status is Status.WARNING
    assert "for the CPU only" in for_cpu.said
    old_driver = judge_gpu([RTX], "13.0", [], [])
    assert old_driver.status is Status.WARNING
    assert "update the NVIDIA driver" in old_driver.remedy


def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setattr(accelerator.shutil, "which", lambda name: str(program) if name == "nvidia-smi" else None)

    def answer(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    answer("echo 'NVIDIA GeForce RTX 3060, 550.54.14, 8.6, 12288'")
    assert accelerator.find_gpus() == [RTX]
    answer("echo 'No devices were found'; exit 6")
    assert accelerator.find_gpus() == []
    answer("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    finding = accelerator.check_gpu(place(tmp_path))
    assert finding.status is Status.WARNING
    assert "version mismatch" in finding.said


def test_a_field_that_the_driver_does_not_know() -> None:
    assert parse_gpu("NVIDIA GB10, 580.1, 12.1, [N/A]") == Gpu("NVIDIA GB10", "580.1", (12, 1), None)


def test_torch_that_is_missing_or_broken(tmp_path: Path) -> None:
    def status(**torch: Any) -> Status:
        return accelerator.check_torch(place(tmp_path, torch=torch)).status

    assert status(error="ModuleNotFoundError: No module named 'torch'") is Status.FAULT
    assert status(error="ImportError: libcudart.so.12: cannot open shared object file") is Status.FAULT
    assert status(version="2.13.0+cpu", cuda=None, hip=None) is Status.OK


def test_triton_needs_a_compiler_only_with_a_gpu() -> None:
    assert judge_triton("3.9.0", "gcc", Path("Python.h"), has_gpu=True).status is Status.OK
    assert judge_triton("3.9.0", None, Path("Python.h"), has_gpu=False).status is Status.OK
    finding = judge_triton("3.9.0", None, None, has_gpu=True)
    assert finding.status is Status.FAULT
    assert "no C compiler and no Python.h" in finding.said


# ---------------------------------------------------------------- the machine


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finding = machine.check_port(place(tmp_path, port=port))
    assert finding.status is Status.WARNING
    assert f"port {port} of 127.0.0.1 is taken by" in finding.said
    assert "learnsgl serve --port 0" in finding.commands


def test_the_cache_folder(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    assert machine.check_cache(place(new)).status is Status.OK
    assert not new.exists(), "a check changes nothing"
    file = tmp_path / "file"
    file.write_text("x")
    assert machine.check_cache(place(file)).status is Status.FAULT


def test_the_disk(tmp_path: Path) -> None:
    assert judge_disk(tmp_path, 100 * GB, is_here=False).status is Status.OK
    assert judge_disk(tmp_path, 2 * GB, is_here=True).status is Status.WARNING
    assert judge_disk(tmp_path, GB // 2, is_here=False).status is Status.FAULT
    assert judge_disk(tmp_path, GB // 2, is_here=True).status is Status.WARNING


def test_the_memory() -> None:
    assert judge_memory(16 * GB).status is Status.OK
    assert judge_memory(2 * GB).status is Status.WARNING
    assert judge_memory(1 * GB).status is Status.FAULT


def test_the_sizes_that_are_asked_for_are_those_of_the_built_in_model() -> None:
    heads, head_dim, layers, float32 = 3, 64, 30, 4
    assert 2 * heads * head_dim * layers * float32 == machine.KV_TOKEN_BYTES


def test_the_folder_of_the_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_sockets(place(tmp_path)).status is Status.OK
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    finding = machine.check_sockets(place(deep))
    assert finding.status is Status.FAULT
    assert "too long a path" in finding.said
    assert list(deep.iterdir()) == []


def test_shared_memory(tmp_path: Path) -> None:
    assert judge_shared_memory(tmp_path).status is not Status.FAULT
    assert judge_shared_memory(tmp_path / "none").status is Status.FAULT


# ---------------------------------------------------------------- the model


def test_the_model_in_each_of_its_states(tmp_path: Path) -> None:
    name = "tiny-random"
    assert model.judge_model(tmp_path, name).status is Status.WARNING
    part = tmp_path / "downloads" / name / "x.whl.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2_000_000))
    assert "in part: 2 MB of 93 MB" in model.judge_model(tmp_path, name).said
    folder = resolve_model(name, cache=tmp_path, progress=False).folder
    assert model.judge_model(tmp_path, name).status is Status.OK
    config = folder / "config.json"
    config.write_bytes(config.read_bytes().swapcase())
    changed = model.judge_model(tmp_path, name)
    assert changed.status is Status.FAULT
    assert changed.facts["changed"] == ["config.json"]
    config.unlink()
    assert "isn't whole" in model.judge_model(tmp_path, name).said


# ---------------------------------------------------------------- all of them


def test_a_check_that_breaks_is_a_warning_and_the_others_go_on(tmp_path: Path) -> None:
    def break_down(place: Place) -> Any:
        raise KeyError("torch")

    checks = [Check("broken", break_down, ""), *CHECKS[:1]]
    findings = dict(run_checks(checks, place(tmp_path)))
    assert findings["broken"].status is Status.WARNING
    assert "KeyError: 'torch'" in findings["broken"].said
    assert findings["python"].status is Status.OK


def test_an_error_of_many_lines_is_told_in_one() -> None:
    assert one_line("IMPORTANT\n\nread this\nOriginal error was: libx.so\n") == "Original error was: libx.so"
    assert one_line("") == ""


def test_whatever_is_not_well_comes_with_a_remedy_and_a_command() -> None:
    poor = [
        judge_python((3, 8)), judge_venv(Path("/x"), Path("/x")), judge_memory(0), judge_packages(["nothing-like-it"]),
        judge_disk(Path("/x"), 0, is_here=False), judge_triton("3", None, None, has_gpu=True),
        judge_gpu([RTX], None, [], []), judge_shared_memory(Path("/nowhere")),
    ]  # fmt: skip
    for finding in poor:
        assert finding.status is not Status.OK
        assert finding.remedy
        assert finding.commands
        assert as_lines("x", finding).count("\n") == 1 + len(finding.commands)


def test_a_probe_whose_interpreter_fails_says_so(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'symbol lookup error' >&2\nexit 127\n")
    broken.chmod(0o755)
    probe = Probe(broken, torch=False)
    with pytest.raises(ChildProcessError, match="symbol lookup error"):
        probe()
    probe.close()


def test_a_probe_tells_what_this_interpreter_loads() -> None:
    probe = Probe(Path(sys.executable), torch=False)
    facts = probe()
    probe.close()
    assert facts["errors"] == {}
    assert facts["torch"] is None
    assert sys.platform != "linux" or Path(facts["libstdcxx"]).is_file()
