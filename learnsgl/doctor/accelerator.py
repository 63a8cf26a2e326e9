"""The checks on torch, the NVIDIA driver and its GPUs, and Triton: do they fit each other?

torch is asked in a process of its own (`probe.py`), the driver through `nvidia-smi`, or through the files that it
shows in /proc where that program is missing.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, fault, ok, one_line, warning

SMI_TIMEOUT_S = 5.0
_QUERY = ("--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits")
_PROC = Path("/proc/driver/nvidia")
_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
_REINSTALL = f"{sys.executable} -m pip install --force-reinstall torch"


@dataclass(frozen=True)
class Gpu:
    """A GPU as its driver tells it.

    Attributes:
        driver: version of the driver; empty where it isn't told.
        capability: compute capability, such as (8, 6); `None` where it isn't told.
        memory_mib: in MiB; `None` where it isn't told.
    """

    name: str
    driver: str = ""
    capability: tuple[int, int] | None = None
    memory_mib: int | None = None


def check_torch(place: Place) -> Finding:
    """Whether torch loads, and what it was built for."""
    torch = place.probe()["torch"]
    if error := torch.get("error"):
        if error.startswith("ModuleNotFoundError"):
            return fault("torch isn't installed", "install it", f"{sys.executable} -m pip install learnsgl")
        return fault(
            f"torch can't be loaded: {one_line(error)}",
            "see the line libstdcxx first; else install torch again",
            _REINSTALL,
        )
    build = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "CPU"
    return ok(f"torch {torch['version']}, built for {build}", version=torch["version"], cuda=torch["cuda"])


def check_gpu(place: Place) -> Finding:
    """Whether there is an NVIDIA GPU, and whether this torch can use it."""
    try:
        gpus = find_gpus()
    except ChildProcessError as error:
        return warning(
            f"the NVIDIA driver is there and doesn't answer: {error}",
            "load the driver's module, or restart the machine after an update of the driver; until then learnsgl runs "
            "on the CPU", "sudo modprobe nvidia", "nvidia-smi",
        )  # fmt: skip
    torch = place.probe()["torch"]
    capabilities = [(device["name"], tuple(device["capability"])) for device in torch.get("devices", ())]
    return judge_gpu(gpus, torch.get("cuda"), capabilities, torch.get("arch_list", ()))


def judge_gpu(
    gpus: Sequence[Gpu],
    torch_cuda: str | None,
    devices: Sequence[tuple[str, tuple[int, ...]]],
    arch_list: Sequence[str],
) -> Finding:
    """Compare the driver's GPUs with torch.

    Args:
        gpus: what the driver names.
        torch_cuda: the CUDA version that torch was built with, or `None`.
        devices: name and compute capability of each device that torch can open.
        arch_list: what its kernels were compiled for, such as `sm_86` and `compute_90`.
    """
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    driver = next((gpu.driver for gpu in gpus if gpu.driver), "")
    with_driver = f"{names} (driver {driver})" if driver else names
    facts = {"gpus": [gpu.name for gpu in gpus], "driver": driver, "torch_cuda": torch_cuda}
    if not gpus and not devices:
        return ok("no NVIDIA GPU; learnsgl runs on the CPU", **facts)
    if torch_cuda is None:
        return warning(
            f"{with_driver} is there, and this torch was built for the CPU only",
            "install a torch that was built for CUDA; the selector at pytorch.org/get-started names the command for "
            "each CUDA version", _REINSTALL, **facts,
        )  # fmt: skip
    if not devices:
        return warning(
            f"{with_driver} is there, and torch (CUDA {torch_cuda}) finds none: most often the driver is older than "
            f"what CUDA {torch_cuda} needs",
            "update the NVIDIA driver, or install a torch that was built for the CUDA version that nvidia-smi names",
            "nvidia-smi", **facts,
        )  # fmt: skip
    unfit = [(name, capability) for name, capability in devices if not runs_on(arch_list, capability)]
    if unfit:
        name, capability = unfit[0]
        return fault(
            f"this torch has no kernels for {name} (compute capability {'.'.join(map(str, capability))}); it was built "
            f"for {', '.join(arch_list)}",
            "install a torch that was built for this GPU (the selector at pytorch.org/get-started), or serve on the "
            "CPU", _REINSTALL, "learnsgl serve --device cpu", **facts,
        )  # fmt: skip
    return ok(f"{with_driver or devices[0][0]}; torch (CUDA {torch_cuda}) has kernels for it", **facts)


def runs_on(arch_list: Sequence[str], capability: tuple[int, ...]) -> bool:
    """Whether code for any of these targets runs on a GPU.

    Machine code (`sm_86`) runs on GPUs of the same major version and no lower a minor one; intermediate code
    (`compute_80`) is compiled anew for any newer GPU; a target ending in `a` is for that one version alone.

    Source: CUDA C++ Programming Guide, "Application Compatibility".
    """
    major, minor = capability[:2]
    for match in (_ARCH.fullmatch(arch) for arch in arch_list):
        if match is None:
            continue
        target = int(match[2]), int(match[3])
        if match[4] == "a":
            fits = target == (major, minor)
        elif match[1] == "compute" and match[4] == "":
            fits = target <= (major, minor)
        else:
            fits = target[0] == major and target[1] <= minor
        if fits:
            return True
    return False


def find_gpus() -> list[Gpu]:
    """The NVIDIA GPUs of this machine.

    Raises:
        ChildProcessError: nvidia-smi can't talk to the driver.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return _gpus_in_proc()
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ChildProcessError(f"nvidia-smi took more than {SMI_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split()) or f"exit code {done.returncode}"
        if "No devices were found" in said:
            return []
        raise ChildProcessError(f"nvidia-smi said: {said[:200]}")
    return [parse_gpu(line) for line in done.stdout.splitlines() if line.strip()]


def parse_gpu(line: str) -> Gpu:
    """One line of nvidia-smi's answer; a field that the driver doesn't know says `[N/A]`."""
    name, driver, capability, memory = (part.strip() for part in line.rsplit(",", 3))
    numbers = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return Gpu(
        name, driver, (int(numbers[1]), int(numbers[2])) if numbers else None, int(memory) if memory.isdigit() else None
    )


def _gpus_in_proc() -> list[Gpu]:
    gpus = []
    for path in sorted((_PROC / "gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", path.read_text(errors="replace"), re.MULTILINE)
        gpus.append(Gpu(model[1].strip() if model else "an NVIDIA GPU"))
    return gpus


def check_triton(place: Place) -> Finding:
    """Triton, and what it compiles the launcher of each kernel with: a C compiler and Python's headers."""
    if sys.platform != "linux":
        return ok("not applicable: Triton is for Linux; the CPU and Apple's chips don't need it")
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return warning(
            "triton isn't installed; a GPU can't be used without it",
            "install it",
            f"{sys.executable} -m pip install learnsgl",
        )
    compiler = next((path for path in map(shutil.which, ("gcc", "clang", "cc")) if path), None)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    has_gpu = bool(place.probe()["torch"].get("devices"))
    return judge_triton(version, compiler, header if header.is_file() else None, has_gpu=has_gpu)


def judge_triton(version: str, compiler: str | None, header: Path | None, *, has_gpu: bool) -> Finding:
    """With a GPU in use, a missing compiler or header is a fault; without one nothing is compiled."""
    lacking = [name for name, found in (("C compiler", compiler), ("Python.h", header)) if found is None]
    if not lacking:
        return ok(f"triton {version}, with {compiler}", version=version, compiler=compiler)
    said = f"triton {version}; there is no {' and no '.join(lacking)}"
    if not has_gpu:
        return ok(f"{said}, which only a GPU needs", version=version, compiler=compiler)
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return fault(
        f"{said}, with which Triton builds the launcher of each kernel",
        "install them", f"sudo apt install gcc {python}-dev", version=version, compiler=compiler,
    )  # fmt: skip
