"""What FlashInfer is told of pages, layout and room, held to the plain way of writing it down."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learnsgl.attention.flashinfer_plan import LEAST_WORKSPACE_BYTES, as_pages, find_pages, workspace_bytes
from tests.attention.steps import generator


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 16]))
def test_pages_are_listed_run_by_run(data: st.DataObject, page_size: int) -> None:
    num_rows, max_pages = 4, 6
    table = torch.randperm(100, generator=generator(0))[: num_rows * max_pages].view(num_rows, max_pages).int()
    runs = data.draw(
        st.lists(st.tuples(st.integers(0, num_rows - 1), st.integers(1, max_pages * page_size)), min_size=1, max_size=9)
    )
    rows, lens = (np.array(column, dtype=np.int32) for column in zip(*runs, strict=True))
    lists = find_pages(rows, lens, table, page_size=page_size)
    expected, ends, last = [], [0], []
    for row, length in runs:
        pages = table[row, : (length + page_size - 1) // page_size].tolist()
        expected += pages
        ends.append(len(expected))
        last.append(length - (len(pages) - 1) * page_size)
    assert lists.indices.tolist() == expected
    assert lists.indptr.tolist() == ends
    assert lists.last_page_len.tolist() == last
    assert lists.context_lens.tolist() == lens.tolist()
    assert {one.dtype for one in (lists.indices, lists.indptr, lists.last_page_len, lists.context_lens)} == {
        torch.int32
    }


@pytest.mark.parametrize("page_size", [1, 8])
def test_the_pool_is_seen_as_pages(page_size: int) -> None:
    layer = torch.arange(2 * 3 * 16 * 4).view(2, 3, 16, 4)
    keys, values = as_pages(layer, page_size)
    assert keys.shape == values.shape == (16 // page_size, 3, page_size, 4)
    for slot in range(16):
        page, place = divmod(slot, page_size)
        assert torch.equal(keys[page, :, place], layer[0, :, slot])
        assert torch.equal(values[page, :, place], layer[1, :, slot])
    assert keys.stride() == values.stride() == (4 * page_size, 16 * 4, 4, 1)
    keys[1, 2, 0] = -1
    assert layer[0, 2, page_size].tolist() == [-1] * 4


def test_the_workspace_holds_what_the_planner_may_ask_for() -> None:
    small = workspace_bytes(9, 3, 64, num_rows=64, num_sms=28)
    assert small == LEAST_WORKSPACE_BYTES
    # 264 programs, 33 tiles of 128 rows a KV head: partial results of 64 heads, and a sum each
    split = 64 * 33 * 128 * (128 + 1) * 4
    assert workspace_bytes(64, 8, 128, num_rows=1, num_sms=132) == split + 64
    # a graph of 1024 rows: 512 tiles of 16 packed rows, and a part of one more for each row but the first
    graph = 64 * (512 + 1023) * 16 * (128 + 1) * 4
    assert workspace_bytes(64, 8, 128, num_rows=1024, num_sms=132) == graph + 64
    # 71 query heads share one KV head: tiles of 128 rows
    assert workspace_bytes(71, 1, 128, num_rows=256, num_sms=8) == 71 * (142 + 255) * 128 * 129 * 4 + 64
    assert workspace_bytes(32, 1, 256, num_rows=256, num_sms=8) == 32 * (128 + 255) * 64 * 257 * 4 + 64
