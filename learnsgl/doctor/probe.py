"""A program of its own: what a Python interpreter really loads, and what its torch says about itself.

`place.py` starts it with the interpreter that is looked at, and reads the one line of JSON that it prints. It needs
nothing but the standard library, so that it runs in any environment, also in a broken one.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from typing import Any

PACKAGES = ("zmq", "numpy", "msgspec", "tokenizers")
"""Compiled packages, in the order in which the server loads them: the first C++ library that comes with them stays."""


def main() -> None:
    """Load, look, and print."""
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]  # the files beside this one aren't modules of the interpreter that is looked at
    errors = {name: _import_error(name) for name in PACKAGES}
    facts: dict[str, Any] = {"version": sys.version.split()[0], "machine": os.uname().machine}
    facts["torch"] = _torch() if "--torch" in sys.argv else None
    facts["libstdcxx"] = _mapped("libstdc++.so.6")
    facts["errors"] = {name: error for name, error in errors.items() if error is not None}
    if facts["torch"] is not None and "error" in facts["torch"]:
        facts["errors"]["torch"] = facts["torch"]["error"]
    print(json.dumps(facts))


def _import_error(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken package raises is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    facts: dict[str, Any] = {
        "version": torch.__version__, "cuda": torch.version.cuda, "hip": getattr(torch.version, "hip", None),
        "available": torch.cuda.is_available(), "arch_list": [], "devices": [],
    }  # fmt: skip
    if facts["available"]:
        facts["arch_list"] = torch.cuda.get_arch_list()
        for index in range(torch.cuda.device_count()):
            name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
            facts["devices"].append({"name": name, "capability": list(capability)})
    return facts


def _mapped(library: str) -> str | None:
    """Path of a loaded library; the dynamic linker is asked for it where no package has brought it in."""
    try:
        ctypes.CDLL(library)
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = [line.split(maxsplit=5)[5].strip() for line in maps if library in line]
    except (OSError, IndexError):  # no such library, or no such file system: a Mac has neither
        return None
    found = [path for path in paths if os.path.basename(path).startswith(library)]
    return found[0] if found else None


if __name__ == "__main__":
    main()
