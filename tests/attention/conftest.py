"""FlashInfer's place is taken by a fake, and the Triton kernels' by their references, unless these are interpreted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from learnsgl.attention import flashinfer_backend
from learnsgl.kernels.find_slots import find_slots_reference
from learnsgl.kernels.rotary_store import NO_SLOT, rotate_and_store_reference, store_kv_reference
from tests.attention import fake_flashinfer

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`import flashinfer` gives the fake."""
    monkeypatch.setitem(sys.modules, "flashinfer", fake_flashinfer)
    if not INTERPRETED:
        for kernel in (find_slots, store_kv, rotate_and_store):
            monkeypatch.setattr(flashinfer_backend, kernel.__name__, kernel)
    fake_flashinfer.Wrapper.calls.clear()
    yield fake_flashinfer
    fake_flashinfer.Wrapper.fault = None


def find_slots(token_rows, positions, page_table, slots, rows, context_lens, kept_positions, *, page_size, num_padded):  # type: ignore[no-untyped-def]
    found = find_slots_reference(token_rows, positions, page_table, page_size=page_size)
    real = len(token_rows)
    for buffer, values, padding in (
        (slots, found, NO_SLOT), (rows, token_rows, 0), (context_lens, positions + 1, 0),
        (kept_positions, positions, 0),
    ):  # fmt: skip
        buffer[:real], buffer[real:num_padded] = values, padding


def store_kv(key_value: torch.Tensor, slots: torch.Tensor, kv_layer: torch.Tensor) -> None:
    store_kv_reference(key_value, slots[: len(key_value)], kv_layer)


def rotate_and_store(qkv, cos, sin, positions, slots, kv_layer, *, num_heads, norm=None):  # type: ignore[no-untyped-def]
    num_tokens = len(qkv)
    rotate_and_store_reference(
        qkv, cos, sin, positions[:num_tokens], slots[:num_tokens], kv_layer, num_heads=num_heads, norm=norm
    )
