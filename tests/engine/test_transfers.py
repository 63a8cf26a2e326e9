"""How arrays share one buffer on their way to a GPU, and the CPU's way without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learnsgl.engine.transfers import ALIGNMENT, HOST, LEAST_PINNED, _pinned, fill, lay_out, views
from tests.engine.driver import int32


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8))
def test_parts_are_aligned_and_do_not_meet(sizes: list[int]) -> None:
    offsets, total = lay_out(sizes)
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    assert all(end <= begin for end, begin in zip(ends, [*offsets[1:], total], strict=True))
    assert total <= sum(sizes) + ALIGNMENT * len(sizes)


def test_what_was_packed_is_seen_as_it_was() -> None:
    arrays = [
        int32([1, 2, 3]), np.array([2**40, -1]), np.zeros(0, dtype=np.int64), np.array([[0.5], [-0.25]], np.float32),
        np.array([True, False, True]), np.arange(12, dtype=np.int64).reshape(3, 4)[:, ::2],
    ]  # fmt: skip
    offsets, total = lay_out([array.nbytes for array in arrays])
    buffer = torch.zeros(total, dtype=torch.uint8)
    fill(buffer.numpy(), arrays, offsets)
    for array, tensor in zip(arrays, views(buffer, arrays, offsets), strict=True):
        assert torch.equal(tensor, torch.tensor(array))
        assert tensor.dtype == torch.tensor(array).dtype


def test_on_a_cpu_nothing_is_shared_with_what_was_given() -> None:
    array = np.arange(4)
    (tensor,) = HOST.upload(array)
    array[:] = 9
    assert tensor.tolist() == [0, 1, 2, 3]
    table = torch.tensor([[0] * 4, [7, 8, 9, 0]], dtype=torch.int32)
    assert HOST.download(table).tolist() == [[0] * 4, [7, 8, 9, 0]]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(5, dtype=np.int32),
        np.array([True, False]),
        np.zeros((0, 7), np.float32),
        np.zeros((99, 100), np.int64),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_pinned_memory_comes_in_few_sizes(array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def unpinned(size: int, *, pin_memory: bool, dtype: torch.dtype) -> torch.Tensor:
        asked.append(size)
        return torch.zeros(size, dtype=dtype)

    monkeypatch.setattr("learnsgl.engine.transfers.torch.empty", unpinned)
    tensor = torch.from_numpy(array)
    pinned = _pinned(tensor.nbytes).view(tensor.dtype).view(tensor.shape)
    assert np.array_equal(pinned.copy_(tensor).numpy(), array)
    assert asked == [max(LEAST_PINNED, array.nbytes)]
