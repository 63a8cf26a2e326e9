"""What is decided on the host: tiles, splits, lists of tiles, and the bytes that kernels must move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learnsgl.kernels.configs import (
    MAX_SPLITS,
    PROGRAMS_PER_SM,
    GpuTraits,
    choose_num_splits,
    decode_tiles,
    prefill_tiles,
    read_traits,
)
from learnsgl.kernels.decode_attention import decode_attention_bytes
from learnsgl.kernels.launch import Launch, power_of_2
from learnsgl.kernels.prefill_attention import (
    prefill_attention_bytes,
    prefill_attention_flops,
    prefill_tile_list,
)

H100, RTX_3060 = GpuTraits((9, 0), 132), GpuTraits((8, 6), 28)


@given(st.integers(1, 512), st.integers(1, 16), st.integers(1, 200_000), st.integers(1, 200))
def test_splits(num_runs: int, num_kv_heads: int, max_context_len: int, num_sms: int) -> None:
    num_splits = choose_num_splits(num_runs, num_kv_heads, max_context_len, num_sms)
    programs = num_runs * num_kv_heads * num_splits
    assert 1 <= num_splits <= MAX_SPLITS
    # the buffers of `TritonAttention` are made for so many
    assert num_splits == 1 or programs < 2 * PROGRAMS_PER_SM * num_sms


def test_splits_of_known_batches() -> None:
    assert choose_num_splits(1, 8, 40_960, 132) == 66  # 528 programs
    assert choose_num_splits(1, 8, 500, 132) == 4  # no part shorter than 128
    assert choose_num_splits(256, 8, 40_960, 132) == 1


@pytest.mark.parametrize("traits", [H100, RTX_3060, GpuTraits((8, 0), 108), GpuTraits((12, 0), 170)])
def test_tiles_are_there_for_every_head(traits: GpuTraits) -> None:
    for head_dim in (16, 64, 80, 96, 128, 192, 256):
        assert prefill_tiles(head_dim, 2, traits).block_n >= 16
        assert decode_tiles(head_dim, 7, 2, traits).block_m == 16
        assert decode_tiles(head_dim, 17, 4, traits).block_m == 32
    with pytest.raises(ValueError, match="head_dim is 320; the attention kernels go up to 256"):
        prefill_tiles(320, 2, traits)


def test_traits_of_what_is_no_gpu() -> None:
    assert read_traits(torch.device("cpu")).num_sms >= 1


@given(
    runs=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 70)), max_size=5),
    group_size=st.integers(1, 9),
    block_m=st.sampled_from([16, 64]),
)
def test_tiles_cover_every_row_once(runs: list[tuple[int, int]], group_size: int, block_m: int) -> None:
    starts = np.array([start for start, _ in runs], dtype=np.int32)
    lens = np.array([length for _, length in runs], dtype=np.int32)
    rows, first_tokens = np.arange(len(runs), dtype=np.int32) + 10, np.cumsum(lens) - lens
    tiles = prefill_tile_list(first_tokens, starts, lens, rows, group_size=group_size, block_m=block_m)
    assert tiles.dtype == np.int32
    covered, reaches = [], []
    for first_token, start, length, row, number in tiles.tolist():
        run = row - 10
        assert (first_token, start, length) == (first_tokens[run], starts[run], lens[run])
        inside = [r for r in range(number * block_m, (number + 1) * block_m) if r < length * group_size]
        assert inside, "no tile is empty"
        covered += [(run, r) for r in inside]
        reaches.append(start + inside[-1] // group_size + 1)
    assert sorted(covered) == [(run, r) for run in range(len(runs)) for r in range(lens[run] * group_size)]
    assert reaches == sorted(reaches, reverse=True)


def test_what_attention_must_move_and_do() -> None:
    starts, lens = np.array([0, 100], dtype=np.int32), np.array([3, 2], dtype=np.int32)
    # queries and results of 5 tokens and 4 heads, keys and values of 3 + 102 tokens and 2 heads, 16 features, 2 bytes
    assert prefill_attention_bytes(starts, lens, 4, 2, 16, 2) == (2 * 5 * 4 + 2 * 105 * 2) * 16 * 2
    # 1 + 2 + 3 and 101 + 102 pairs; a multiplication and an addition in each of two products
    assert prefill_attention_flops(starts, lens, 4, 16) == (6 + 203) * 4 * 16 * 4
    # a decode step of Qwen3-0.6B: 4 KiB a token of context and layer, 112 KiB in its 28 layers
    assert decode_attention_bytes(0, 1, 16, 8, 128, 2) * 28 == 112 * 1024


def test_nothing_is_launched_on_an_empty_grid() -> None:
    Launch(kernel=None, grid=(0, 3, 1), args={}, num_warps=4).run()


def test_powers_of_two() -> None:
    assert [power_of_2(n) for n in (0, 1, 2, 3, 80, 128, 129)] == [1, 1, 2, 4, 128, 128, 256]
    assert power_of_2(3, at_least=16) == 16
