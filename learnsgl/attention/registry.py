"""Which attention backends there are, which of them can run here, and how one is made: `--attention-backend`.

`loading.py` asks for names before it reads weights, so that a wrong one costs a second and not minutes, and for the
backends themselves when the KV pool exists.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass

import torch

from learnsgl.attention.backend import AttentionBackend
from learnsgl.attention.torch_backend import TorchAttention
from learnsgl.core import Int32Array
from learnsgl.engine.kv_pool import KVPool
from learnsgl.errors import OptionError

NAMES = ("torch", "triton", "flashinfer")

GRAPHED = ("triton", "flashinfer")
"""Those that can decode in a CUDA graph (`engine.graph.GraphedAttention`)."""

LEAST_CAPABILITY = (8, 0)
"""What the Triton kernels are compiled and tested for; an RTX 3060 has (8, 6)."""

MAX_HEAD_DIM = 256
"""Features of a head for which the Triton kernels have tiles."""

FLASHINFER_VERSIONS = ((0, 5, 3), (0, 7))
"""The first version of flashinfer-python that the backend is written for, and the first that it isn't."""

FLASHINFER_HEAD_DIMS = (64, 128, 256)
"""Features of a head for which FlashInfer has paged kernels on every GPU."""

FLASHINFER_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class BackendNames:
    """Which backend runs steps that hold chunks of prompts, and which those in which all rows decode."""

    prefill: str
    decode: str

    def __str__(self) -> str:
        return self.prefill if self.prefill == self.decode else f"{self.prefill},{self.decode}"


@dataclass(frozen=True, slots=True)
class BackendLimits:
    """What a backend makes its buffers for.

    Attributes:
        num_heads: query heads.
        max_tokens: most tokens of one step, padding included.
        max_context_len: most tokens of one row.
        max_dense_bytes: most that the torch backend's dense copies of contexts may take; with 0 there are none.
    """

    num_heads: int
    max_tokens: int
    max_context_len: int
    max_dense_bytes: int


@dataclass(frozen=True, slots=True)
class Backends:
    """The two backends of an engine, over one KV pool; often they are the same object."""

    prefill: AttentionBackend
    decode: AttentionBackend

    def choose(self, lens: Int32Array) -> AttentionBackend:
        """The backend for a step whose runs have these lengths (int32 [n], host)."""
        return self.decode if int(lens.max()) == 1 else self.prefill


def choose_backends(text: str | None, device: torch.device, *, head_dim: int, dtype: torch.dtype) -> BackendNames:
    """What `--attention-backend prefill[,decode]` asks for, or what is best here.

    Args:
        text: the option's value; `None` takes `triton` on a GPU where it can run, and `torch` elsewhere.
        device: where the engine runs.
        head_dim: features of the model's heads.
        dtype: of keys and values.

    Raises:
        OptionError: an unknown name, or one that can't run here; it names those that can, and why the others can't.
    """
    reasons = {name: why_unavailable(name, device, head_dim=head_dim, dtype=dtype) for name in NAMES}
    if text is None:
        best = "triton" if reasons["triton"] is None else "torch"
        return BackendNames(best, best)
    names = [name.strip() for name in text.split(",")]
    if len(names) > 2:
        raise OptionError(
            f"--attention-backend is {text!r}; give one name, or two: prefill,decode. {_there_are(reasons)}"
        )
    for name in names:
        if name not in reasons:
            raise OptionError(f"--attention-backend is {text!r}, and {name!r} is none. {_there_are(reasons)}")
        if reasons[name] is not None:
            raise OptionError(f"--attention-backend is {text!r}, and {name} can't run here. {_there_are(reasons)}")
    if "flashinfer" in names:
        _import_flashinfer(text)
    return BackendNames(names[0], names[-1])


def why_unavailable(
    name: str, device: torch.device, *, head_dim: int, dtype: torch.dtype = torch.bfloat16
) -> str | None:
    """What keeps a backend from running on a device, or `None`."""
    if name == "torch":
        return None
    reason = _why_no_triton(device, head_dim)
    if name == "flashinfer" and reason is None:  # it keeps keys and values with Triton kernels
        reason = _why_no_flashinfer(head_dim, dtype)
    return reason


def _why_no_triton(device: torch.device, head_dim: int) -> str | None:
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU, and the device is {device}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton isn't installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return f"the GPU's compute capability is {_dotted(capability)}, and it needs {_dotted(LEAST_CAPABILITY)}"
    if head_dim > MAX_HEAD_DIM:
        return f"the model's heads have {head_dim} features, and it goes up to {MAX_HEAD_DIM}"
    return None


def _why_no_flashinfer(head_dim: int, dtype: torch.dtype) -> str | None:
    least, beyond = FLASHINFER_VERSIONS
    wanted = (
        f"flashinfer-python from {_dotted(least)} on, before {_dotted(beyond)} (pip install 'learnsgl[flashinfer]')"
    )
    if importlib.util.find_spec("flashinfer") is None:
        return f"it needs the package {wanted}"
    try:
        version = importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        version = "0"
    if not least <= _release(version) < beyond:
        return f"it needs the package {wanted}, and {version} is installed"
    if head_dim not in FLASHINFER_HEAD_DIMS:
        sizes = ", ".join(str(size) for size in FLASHINFER_HEAD_DIMS)
        return f"the model's heads have {head_dim} features, and its kernels are for {sizes}"
    if dtype not in FLASHINFER_DTYPES:
        return f"it computes in float16 and bfloat16, and --dtype is {str(dtype).removeprefix('torch.')}"
    return None


def _import_flashinfer(text: str) -> None:
    """Import it now, before weights are read: what it needs itself may be missing."""
    try:
        importlib.import_module("flashinfer")
    except (ImportError, OSError, RuntimeError) as error:
        raise OptionError(
            f"--attention-backend is {text!r}, and the package flashinfer-python can't be imported: {error}. Install "
            "what it needs (pip install 'learnsgl[flashinfer]'), or take triton"
        ) from error


def make_backends(names: BackendNames, pool: KVPool, page_table: torch.Tensor, limits: BackendLimits) -> Backends:
    """The backends of these names, over a pool and its page table (int32 [num_rows, max_pages_per_row], device)."""
    prefill = _make(names.prefill, pool, page_table, limits)
    decode = prefill if names.decode == names.prefill else _make(names.decode, pool, page_table, limits)
    return Backends(prefill, decode)


def _make(name: str, pool: KVPool, page_table: torch.Tensor, limits: BackendLimits) -> AttentionBackend:
    if name == "torch":
        return TorchAttention(
            pool, page_table, num_heads=limits.num_heads, max_dense_bytes=limits.max_dense_bytes
        )  # fmt: skip
    if name == "flashinfer":
        from learnsgl.attention.flashinfer_backend import FlashInferAttention  # FlashInfer takes seconds to import

        return FlashInferAttention(pool, page_table, num_heads=limits.num_heads, max_tokens=limits.max_tokens)
    from learnsgl.attention.triton_backend import TritonAttention  # triton takes a second to import

    return TritonAttention(
        pool, page_table, num_heads=limits.num_heads, max_tokens=limits.max_tokens,
        max_context_len=limits.max_context_len,
    )  # fmt: skip


def _there_are(reasons: dict[str, str | None]) -> str:
    here = ", ".join(name for name, reason in reasons.items() if reason is None)
    missing = "".join(f"; {name} isn't: {reason}" for name, reason in reasons.items() if reason is not None)
    return f"Available here: {here}{missing}"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


def _release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (0, 6, 18) for 0.6.18.post1."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in found[0].split(".")) if found else ()
