"""The registry of checks, and the loop over them. A new check is one function, and one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from learnsgl.doctor.accelerator import check_gpu, check_torch, check_triton
from learnsgl.doctor.environment import check_packages, check_python, check_venv
from learnsgl.doctor.libstdcxx import check_libstdcxx
from learnsgl.doctor.machine import (
    check_cache,
    check_disk,
    check_memory,
    check_port,
    check_shared_memory,
    check_sockets,
)
from learnsgl.doctor.model import check_model
from learnsgl.doctor.place import Place
from learnsgl.doctor.report import Finding, one_line, warning


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what the command line and the report call it.
        run: looks, and says what it found.
        about: what it looks at, for `--help` and docs/troubleshooting.md.
        asks_torch: whether it waits for the process that loads torch; these come last.
    """

    name: str
    run: Callable[[Place], Finding]
    about: str
    asks_torch: bool = False


CHECKS = (
    Check("python", check_python, "the version of Python"),
    Check("venv", check_venv, "whether it is a virtual environment"),
    Check("packages", check_packages, "the packages that learnsgl depends on, and their versions"),
    Check("port", check_port, "whether the HTTP port is free, and who holds it"),
    Check("cache", check_cache, "the folder of pulled models"),
    Check("disk", check_disk, "free space for the model and recordings"),
    Check("memory", check_memory, "free memory for the model and its KV cache"),
    Check("sockets", check_sockets, "the temporary folder, in which the processes' sockets lie"),
    Check("shared-memory", check_shared_memory, "/dev/shm"),
    Check("model", check_model, "whether the built-in model is here and whole"),
    Check(
        "libstdcxx", check_libstdcxx, "the C++ library that is loaded, beside what packages ask for", asks_torch=True
    ),
    Check("torch", check_torch, "whether torch loads, and what it was built for", asks_torch=True),
    Check("gpu", check_gpu, "the NVIDIA driver and GPUs, and whether torch fits them", asks_torch=True),
    Check("triton", check_triton, "Triton, its C compiler and Python's headers", asks_torch=True),
)
PREFIX_CHECKS = ("libstdcxx",)
"""What can be said about an environment that isn't the one that runs."""


def run_checks(checks: Sequence[Check], place: Place) -> Iterator[tuple[str, Finding]]:
    """Run the checks in turn. One that breaks is a warning with its exception, and the others go on."""
    for check in checks:
        try:
            finding = check.run(place)
        except Exception as error:
            finding = warning(
                f"this check could not be made: {type(error).__name__}: {one_line(str(error))}",
                "go by the other lines; the packages it needs may be what is broken",
            )
        yield check.name, finding
