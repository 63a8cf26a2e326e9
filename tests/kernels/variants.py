"""Which variants of the kernels there are: what Triton would compile for launches, told without compiling."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from learnsgl.kernels.launch import Launch

Variants = set[Hashable]


def variant_of(launch: Launch) -> Hashable:
    """Kernel, constants, and what Triton finds out about the other arguments; another value is another compilation."""
    facts: list[Hashable] = [launch.kernel.__name__, launch.num_warps, launch.num_stages]
    for param in launch.kernel.params:
        facts.append((param.name, *_fact_of(param, launch.args[param.name])))
    return tuple(facts)


def _fact_of(param: Any, value: Any) -> tuple[Hashable, ...]:
    # On a GPU Triton refuses a number of numpy's, which its interpreter takes.
    assert value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float), (param.name, value)
    if param.is_constexpr or value is None:
        return ("constant", value)
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.data_ptr() % 16 == 0)
    if isinstance(value, int) and not isinstance(value, bool):
        if param.do_not_specialize:
            return (value.bit_length() < 32,)
        return (value.bit_length() < 32, value == 1, value % 16 == 0)
    return (type(value),)


@contextmanager
def gathered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Variants]:
    """Launches within compute nothing (tokens become 0); the variants of their kernels are gathered."""
    variants: Variants = set()

    def note(self: Launch) -> None:
        assert all(type(size) is int for size in self.grid), self.grid
        if 0 in self.grid:
            return
        variants.add(variant_of(self))
        for name in ("tokens_ptr", "failed_ptr"):
            if self.kernel.__name__ == "_choose_kernel":
                self.args[name].zero_()

    with monkeypatch.context() as patch:
        patch.setattr(Launch, "run", note)
        yield variants
