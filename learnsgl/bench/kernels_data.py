"""What `learnsgl bench kernels` varies: the shapes of models, the sizes of work, and a case of one kernel on one size.

`kernels_cases.py` and `kernels_products.py` make the cases, `kernels.py` measures them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Compute = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that its kernels see.

    Attributes:
        has_qk_norm: whether heads are normalised before they are rotated.
    """

    name: str
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    has_qk_norm: bool


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("qwen3-0.6b", 1024, 3072, 16, 8, 128, 151_936, has_qk_norm=True),
        Shape("llama-3.1-8b", 4096, 14_336, 32, 8, 128, 128_256, has_qk_norm=False),
    )
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is varied.

    Attributes:
        num_tokens: tokens of a step, for what works token by token.
        decodes: batch, context of each.
        prefills: runs, tokens of each, tokens that their rows hold already.
        num_sampled: rows that sample.
        num_few: tokens of a step of a few.
    """

    num_tokens: tuple[int, ...] = (1, 64, 256, 8192)
    decodes: tuple[tuple[int, int], ...] = ((1, 1024), (1, 32_768), (8, 1024), (64, 1024), (256, 1024))
    prefills: tuple[tuple[int, int, int], ...] = ((1, 8192, 0), (8, 1024, 0), (4, 512, 4096), (16, 8, 2048))
    num_sampled: tuple[int, ...] = (1, 64, 256)
    num_few: tuple[int, ...] = (1, 8, 16)


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one size.

    Attributes:
        ways: `learnsgl` first; each computes the case anew when it is called.
        compiles: whether what `torch.compile` makes of the way `torch` is measured too.
        has_one_answer: whether all ways give the same, up to rounding; samples differ.
    """

    kernel: str
    size: str
    num_bytes: int
    num_flops: int
    ways: dict[str, Compute]
    compiles: bool = False
    has_one_answer: bool = True
