"""SwiGLU's activation on the GPU: silu(gate) * up in one pass, between the two products of the MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from learnsgl.kernels.launch import Launch, check_rows

_BLOCK = 1024


def silu_and_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up.

    Fused: the activation and the product, so that neither half is written in between.

    Args:
        gate_up: [T, 2 * I], fp16, bf16 or fp32; gate, then up.

    Returns:
        [T, I]. Computed in fp32.

    Raises:
        ValueError: gate_up isn't dense along its last axis.

    Source: GLU Variants Improve Transformer (Shazeer, 2020), section 2.
    """
    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
    silu_and_mul_launch(gate_up, out).run()
    return out


def silu_and_mul_launch(gate_up: torch.Tensor, out: torch.Tensor) -> Launch:
    """The launch of `silu_and_mul` into `out`."""
    check_rows("gate_up", gate_up)
    num_tokens, size = out.shape
    args = {
        "gate_up_ptr": gate_up, "out_ptr": out, "gate_up_stride": gate_up.stride(0), "out_stride": out.stride(0),
        "SIZE": size, "BLOCK": _BLOCK,
    }  # fmt: skip
    return Launch(_silu_and_mul_kernel, (num_tokens, triton.cdiv(size, _BLOCK), 1), args, num_warps=4)


def silu_and_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """`silu_and_mul` in plain torch, rounded once."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def silu_and_mul_bytes(num_tokens: int, size: int, itemsize: int) -> int:
    """Bytes that `silu_and_mul` must move: both halves in, one out."""
    return 3 * num_tokens * size * itemsize


@triton.jit
def _silu_and_mul_kernel(
    gate_up_ptr, out_ptr, gate_up_stride, out_stride, SIZE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One program for a block of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < SIZE
    gate_place = gate_up_ptr + row * gate_up_stride + columns
    gate = tl.load(gate_place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_place + SIZE, mask=inside, other=0.0).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * out_stride + columns, out.to(out_ptr.dtype.element_ty), mask=inside)
