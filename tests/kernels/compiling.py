"""Turns a `Launch` into machine code for a GPU that isn't there, as Triton would when it is first run there."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from learnsgl.kernels.launch import Launch

ARCHITECTURES = (80, 86, 89, 90)
SHARED_MEMORY_LIMITS = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448}
"""Bytes of shared memory that a program may use, of CUDA's programming guide ("compute capabilities")."""

_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32", torch.int64: "i64",
    torch.bool: "i1",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """What a test looks at.

    Attributes:
        ptx: assembly.
        shared_bytes: shared memory of a program.
        num_registers: of a thread.
        stack_bytes: of a thread; above 0 where registers were spilled.
    """

    ptx: str
    shared_bytes: int
    num_registers: int
    stack_bytes: int


def compile_launch(launch: Launch, architecture: int, folder: Path) -> Compiled:
    """Compile for `sm_<architecture>`, with what Triton would find out about the arguments; `folder` is for scratch."""
    signature, constants, facts = {}, {}, {}
    for number, param in enumerate(launch.kernel.params):
        value = launch.args[param.name]
        if param.is_constexpr or value is None or (isinstance(value, int) and value == 1 and _is_looked_at(param)):
            signature[param.name], constants[param.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[param.name] = f"*{_TYPES[value.dtype]}"
            is_aligned = value.storage_offset() * value.itemsize % 16 == 0
        else:
            signature[param.name] = "fp32" if isinstance(value, float) else "i32"
            is_aligned = isinstance(value, int) and value % 16 == 0
        if is_aligned and _is_looked_at(param):
            facts[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=facts)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    kernel = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    used = subprocess.run(
        [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(cubin)], capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    return Compiled(kernel.asm["ptx"], kernel.metadata.shared, _number(used, "REG"), _number(used, "STACK"))


def _is_looked_at(param: triton.runtime.jit.KernelParam) -> bool:
    return not param.do_not_specialize


def _number(text: str, name: str) -> int:
    found = re.search(rf"{name}:(\d+)", text)
    assert found is not None, text
    return int(found[1])
