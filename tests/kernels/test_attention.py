"""Both attention kernels beside plain torch: ragged batches, grouped heads, odd head sizes, pages, splits, padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learnsgl.kernels.configs import MAX_SPLITS, Tiles
from learnsgl.kernels.decode_attention import DecodeTokens, SplitBuffers, decode_attention
from learnsgl.kernels.find_slots import find_slots_reference
from learnsgl.kernels.own_tokens import OwnTokens
from learnsgl.kernels.prefill_attention import prefill_attention, prefill_tile_list
from learnsgl.kernels.rotary_store import NO_SLOT, QKNorm, rotate_and_store_reference
from tests.kernels.cases import DTYPES, Paged, assert_close, generator, make_paged

SMALL = Tiles(block_m=16, block_n=16, num_warps=4, num_stages=2)


def prefill(paged: Paged, tiles: Tiles = SMALL) -> torch.Tensor:
    """Every run of the batch through the prefill kernel."""
    group_size = paged.query.shape[1] // paged.kv_layer.shape[1]
    tile_list = prefill_tile_list(
        paged.first_tokens, paged.starts, paged.lens, paged.rows, group_size=group_size, block_m=tiles.block_m
    )
    out = torch.full_like(paged.query, torch.nan)
    prefill_attention(
        paged.query, paged.kv_layer, paged.page_table, torch.from_numpy(tile_list).to(paged.query.device), out,
        page_size=paged.page_size, scale=paged.scale, tiles=tiles,
    )  # fmt: skip
    return out


def decode(
    paged: Paged, *, num_splits: int, tokens: list[int] | None = None, num_padding: int = 0, tiles: Tiles = SMALL
) -> torch.Tensor:
    """Tokens of the batch (all, or some) through the decode kernel, with padding behind them."""
    device, num_tokens = paged.query.device, len(paged.query)
    rows = np.repeat(paged.rows, paged.lens)
    offsets = np.arange(num_tokens) - np.repeat(paged.first_tokens, paged.lens)
    context_lens = np.repeat(paged.starts, paged.lens) + offsets + 1
    padding = np.zeros(num_padding, dtype=np.int32)
    query = torch.cat((paged.query, paged.query.new_zeros(num_padding, *paged.query.shape[1:])))
    num_listed = num_tokens + num_padding if tokens is None else len(tokens)
    decode_tokens = DecodeTokens(
        rows=torch.from_numpy(np.concatenate((rows, padding)).astype(np.int32)).to(device),
        context_lens=torch.from_numpy(np.concatenate((context_lens, padding)).astype(np.int32)).to(device),
        tokens=None if tokens is None else torch.tensor(tokens, dtype=torch.int32, device=device),
        num_tokens=num_listed,
    )
    num_heads, head_dim = query.shape[1:]
    # what was left there before must not matter
    buffers = SplitBuffers(
        torch.full((num_listed * num_heads * num_splits * head_dim,), torch.nan, device=device),
        torch.full((num_listed * num_heads * num_splits,), torch.nan, device=device),
    )
    out = torch.full_like(query, torch.nan)
    decode_attention(
        query, paged.kv_layer, paged.page_table, decode_tokens, out, page_size=paged.page_size, scale=paged.scale,
        tiles=tiles, num_splits=num_splits, buffers=buffers,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 2, 64), (7, 1, 80), (9, 3, 96), (2, 2, 128)])
@pytest.mark.parametrize("page_size", [1, 16])
def test_shapes(
    num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, dtype: torch.dtype, device: torch.device
) -> None:
    paged = make_paged(
        [0, 5, 31], [19, 1, 2], num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim,
        page_size=page_size, dtype=dtype, device=device,
    )  # fmt: skip
    expected = paged.reference()
    assert_close(prefill(paged), expected)
    some = [0, 17, 19, 21]
    assert_close(decode(paged, num_splits=2, tokens=some)[some], expected[some])


@pytest.mark.parametrize("tiles", [Tiles(32, 16, 4, 2), Tiles(16, 64, 4, 2), Tiles(64, 32, 4, 2)])
def test_tiles_do_not_change_the_result(tiles: Tiles, device: torch.device) -> None:
    paged = make_paged([0, 40, 16, 63], [33, 7, 16, 1], num_heads=6, num_kv_heads=2, page_size=4, device=device)
    assert_close(prefill(paged, tiles), paged.reference())


@pytest.mark.parametrize("num_splits", [1, 2, 3, 7, MAX_SPLITS])
def test_splits_do_not_change_the_result(num_splits: int, device: torch.device) -> None:
    # contexts of one token, of whole and of broken blocks; most have fewer parts than there are splits
    paged = make_paged([0, 15, 16, 46, 99], [1] * 5, num_heads=3, num_kv_heads=1, device=device)
    assert_close(decode(paged, num_splits=num_splits), paged.reference())


@pytest.mark.parametrize("num_splits", [1, 4])
def test_a_long_context(num_splits: int, device: torch.device) -> None:
    tiles = Tiles(16, 128, 4, 2)
    paged = make_paged([4095], [1], num_heads=2, num_kv_heads=1, page_size=16, device=device)
    assert_close(decode(paged, num_splits=num_splits, tiles=tiles), paged.reference())
    paged = make_paged([2999], [20], num_heads=2, num_kv_heads=1, page_size=16, device=device)
    assert_close(prefill(paged, tiles), paged.reference())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize(
    ("num_splits", "num_heads", "num_kv_heads", "head_dim", "page_size"), [(1, 4, 2, 64, 1), (3, 7, 1, 80, 4)]
)
def test_tokens_that_are_rotated_and_stored_on_the_way(
    num_splits: int, num_heads: int, num_kv_heads: int, head_dim: int, page_size: int, has_norm: bool,
    dtype: torch.dtype, device: torch.device,
) -> None:  # fmt: skip
    starts = [0, 15, 16, 47]  # a context of the token alone, and ends within and between blocks
    shape = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim, "page_size": page_size}
    paged = make_paged(starts, [1] * 4, **shape, dtype=dtype, device=device)
    qkv = torch.randn(6, num_heads + 2 * num_kv_heads, head_dim, generator=generator(1)).to(device, dtype)
    angles = torch.outer(torch.arange(48.0), 10.0 ** -torch.linspace(0, 2, head_dim // 2)).to(device)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    norm = QKNorm(*torch.rand(2, head_dim, generator=generator(2)).to(device, dtype), eps=1e-6) if has_norm else None
    positions, rows = torch.tensor(starts, device=device), torch.from_numpy(paged.rows).to(device)
    slots = find_slots_reference(rows.long(), positions, paged.page_table, page_size=page_size)
    expected_qkv, expected_layer = qkv[:4].clone(), paged.kv_layer.clone()
    rotate_and_store_reference(expected_qkv, cos, sin, positions, slots, expected_layer, num_heads=num_heads, norm=norm)
    mine = paged.kv_layer.clone()
    mine[:, :, slots] = torch.nan  # what is there before must not matter
    padding = torch.zeros(2, dtype=torch.int32, device=device)
    tokens = DecodeTokens(torch.cat((rows, padding)), torch.cat((positions.int() + 1, padding)), None, 6)
    own = OwnTokens(torch.cat((slots, padding.long() + NO_SLOT)), cos, sin, norm)
    buffers = SplitBuffers(*(torch.full((6 * num_heads * num_splits * size,), torch.nan, device=device) for size in (
        head_dim, 1)))  # fmt: skip
    out = torch.full((6, num_heads, head_dim), torch.nan, dtype=dtype, device=device)
    decode_attention(
        qkv, mine, paged.page_table, tokens, out, page_size=page_size, scale=paged.scale, tiles=SMALL,
        num_splits=num_splits, buffers=buffers, own=own,
    )  # fmt: skip
    assert_close(mine[:, :, slots], expected_layer[:, :, slots])
    kept = torch.ones(mine.shape[2], dtype=torch.bool, device=device)
    kept[slots] = False
    assert torch.equal(mine[:, :, kept].nan_to_num(9.0), paged.kv_layer[:, :, kept].nan_to_num(9.0))
    paged.query, paged.kv_layer = expected_qkv[:, :num_heads], expected_layer
    assert_close(out[:4], paged.reference())
    assert not out[4:].any()


@pytest.mark.parametrize("num_splits", [1, 3])
def test_padding_gives_zeros(num_splits: int, device: torch.device) -> None:
    paged = make_paged([20, 3], [1, 1], device=device)
    out = decode(paged, num_splits=num_splits, num_padding=3)
    assert_close(out[:2], paged.reference())
    assert torch.equal(out[2:], torch.zeros_like(out[2:]))


def test_an_empty_batch(device: torch.device) -> None:
    paged = make_paged([], [], device=device)
    assert prefill(paged).shape == (0, 4, 16)
    assert decode(paged, num_splits=2).shape == (0, 4, 16)


def test_great_scores_stay_finite(device: torch.device) -> None:
    paged = make_paged([40, 0], [1, 20], device=device)
    paged.query *= 300.0
    expected = paged.reference()
    torch.testing.assert_close(prefill(paged), expected, rtol=1e-4, atol=1e-4)
    some = [0]
    torch.testing.assert_close(decode(paged, num_splits=3, tokens=some)[some], expected[some], rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_its_neighbours(device: torch.device) -> None:
    paged = make_paged([33, 50, 7], [1, 1, 1], device=device)
    together = decode(paged, num_splits=2)
    for token in range(3):
        alone = decode(paged, num_splits=2, tokens=[token])
        assert torch.equal(alone[token], together[token])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    runs=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=4),
    group_size=st.integers(1, 5),
    num_kv_heads=st.integers(1, 2),
    page_size=st.sampled_from([1, 3, 16]),
    num_splits=st.integers(1, 5),
    seed=st.integers(0, 100),
)
def test_ragged_batches(
    runs: list[tuple[int, int]], group_size: int, num_kv_heads: int, page_size: int, num_splits: int, seed: int,
    device: torch.device,
) -> None:  # fmt: skip
    starts, lens = zip(*runs, strict=True)
    paged = make_paged(
        starts, lens, num_heads=group_size * num_kv_heads, num_kv_heads=num_kv_heads, page_size=page_size,
        device=device, seed=seed,
    )  # fmt: skip
    expected = paged.reference()
    assert_close(prefill(paged), expected)
    last = (paged.first_tokens + paged.lens - 1).tolist()
    out = decode(paged, num_splits=num_splits, tokens=last)
    assert_close(out[last], expected[last])
    others = [token for token in range(len(out)) if token not in last]
    assert bool(out[others].isnan().all()), "tokens that aren't listed are left as they are"
