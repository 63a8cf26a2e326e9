"""Tile sizes of the kernels, one table for all GPUs: chosen by head_dim and architecture, never searched while serving.

The attention kernels look their tiles up here. A search at start-up would cost minutes and make two runs differ, so the
numbers stand here with what speaks for them; `learnsgl bench kernels` is there to choose better ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from learnsgl.kernels.launch import power_of_2


@dataclass(frozen=True, slots=True)
class Tiles:
    """How an attention kernel is cut.

    Attributes:
        block_m: query rows of a tile; a row is one token of one query head. At least 16, the least of `tl.dot`.
        block_n: keys that a loop iteration handles.
        num_warps: warps of a program.
        num_stages: of Triton's software pipeline.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class GpuTraits:
    """What the choice of tiles and splits depends on.

    Attributes:
        capability: such as (9, 0) for an H100.
        num_sms: streaming multiprocessors.
    """

    capability: tuple[int, int]
    num_sms: int

    @property
    def has_wgmma(self) -> bool:
        """Whether a warpgroup multiplies from shared memory (9.0), or does better still (10.0)."""
        return self.capability[0] in (9, 10)

    @property
    def has_small_shared_memory(self) -> bool:
        """Whether a program has at most 99 KiB of shared memory (GeForce: 8.6, 8.9, 12.0), and not 163 or more."""
        return (self.capability[0] == 8 and self.capability[1] > 0) or self.capability[0] == 12


def read_traits(device: torch.device) -> GpuTraits:
    """The traits of a device; those of a small GPU where it isn't one, since kernels run under an interpreter there."""
    if device.type != "cuda":
        return GpuTraits(capability=(8, 0), num_sms=4)
    properties = torch.cuda.get_device_properties(device)
    return GpuTraits((properties.major, properties.minor), properties.multi_processor_count)


# About `num_stages`. The load of a key needs its page's number first, so Triton's pipeliner gives each of the two loads
# half of the stages: with 3, keys and values have one buffer each and nothing is in flight while it is used; with 5
# they have two, with 7 three (`tests/kernels/test_compiles.py` holds this for each of the tiles below).

# Prefill is bound by the matrix units. A tile of 128 query rows uses each key 128 times, and 8 warps hold 16 rows each.
# Hopper's wgmma wants 64 rows a warpgroup, so 128 rows are two of them; it takes 186 registers a thread at D = 128.
# Older chips (and 12.0, which has their instructions) hold operands in registers too: 64 keys an iteration spill there
# with 16 tokens a page, 32 take 196. With 4 warps, or with 128 keys an iteration, registers are spilled on all of them.
_PREFILL_WGMMA = {
    64: Tiles(128, 64, 8, 5),
    128: Tiles(128, 64, 8, 5),
    256: Tiles(64, 32, 8, 5),
}
_PREFILL_MMA = {
    64: Tiles(128, 64, 8, 5),
    128: Tiles(128, 32, 8, 5),
    256: Tiles(64, 16, 8, 5),
}

# Decoding is bound by memory: what counts is bytes in flight. An H100 needs about 20 KiB a multiprocessor in flight
# (25 bytes a ns, 800 ns). Two buffers of keys and values are 64 KiB of shared memory on the large chips, so that three
# programs fit a multiprocessor, and 32 KiB on the small ones, where two do. 16 rows, the least of the matrix units, are
# enough for most models' groups, and take 80 registers.
_DECODE = {
    64: Tiles(16, 128, 4, 5),
    128: Tiles(16, 64, 4, 5),
    256: Tiles(16, 32, 4, 5),
}
_DECODE_SMALL = {
    64: Tiles(16, 64, 4, 5),
    128: Tiles(16, 32, 4, 5),
    256: Tiles(16, 16, 4, 5),
}


def prefill_tiles(head_dim: int, itemsize: int, traits: GpuTraits) -> Tiles:
    """Tiles of `prefill_attention`.

    Raises:
        ValueError: heads are too large.
    """
    return _look_up(_PREFILL_WGMMA if traits.has_wgmma else _PREFILL_MMA, head_dim, itemsize)


def decode_tiles(head_dim: int, group_size: int, itemsize: int, traits: GpuTraits) -> Tiles:
    """Tiles of `decode_attention`; `group_size` query heads share a KV head, and a tile holds all of them.

    Raises:
        ValueError: heads are too large.
    """
    tiles = _look_up(_DECODE_SMALL if traits.has_small_shared_memory else _DECODE, head_dim, itemsize)
    return Tiles(power_of_2(group_size, at_least=16), tiles.block_n, tiles.num_warps, tiles.num_stages)


def _look_up(table: dict[int, Tiles], head_dim: int, itemsize: int) -> Tiles:
    block_d = max(64, power_of_2(head_dim))
    if block_d not in table:
        raise ValueError(f"head_dim is {head_dim}; the attention kernels go up to {max(table)}")
    tiles = table[block_d]
    if itemsize <= 2:
        return tiles
    # fp32 takes twice the shared memory, and its products run on the ordinary units: it is there to compare with
    return Tiles(min(tiles.block_m, 32), 16, 4, tiles.num_stages)


PROGRAMS_PER_SM = 4
"""Decode programs that are wanted for each multiprocessor: the two or three that run on it at a time and as many again,
so that the last ones to finish leave it idle for a small part of the time only."""

MIN_SPLIT_TOKENS = 128
"""A part of a context is at least so long; a shorter one costs more to combine than it saves."""

MAX_SPLITS = 128
"""Parts of a context at most; the combining program holds one weight for each."""


def choose_num_splits(num_runs: int, num_kv_heads: int, max_context_len: int, num_sms: int) -> int:
    """Into how many parts each context is split, so that a small batch fills the chip.

    It depends on what is known when a CUDA graph is captured; how long the parts are is found on the device.

    Args:
        num_runs: tokens that decode.
        num_kv_heads: each is a program of its own.
        max_context_len: of the longest context there can be.
        num_sms: of the device.

    Returns:
        1 to `MAX_SPLITS`.
    """
    for_the_chip = -(-PROGRAMS_PER_SM * num_sms // max(1, num_runs * num_kv_heads))
    for_the_length = -(-max_context_len // MIN_SPLIT_TOKENS)
    return max(1, min(for_the_chip, for_the_length, MAX_SPLITS))


@dataclass(frozen=True, slots=True)
class ProductTiles:
    """How a product of few tokens is cut: output features and input features of a tile, and the rest as in `Tiles`."""

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def product_tiles(num_features: int, num_sms: int, *, is_gated: bool) -> ProductTiles:
    """Tiles of `few_tokens_product`.

    A walk over weights of a few MiB is over before a second round of programs has begun, so there should be a program
    for each multiprocessor, as long as the matrix units allow it: they take 8 features at least. In each program two or
    three tiles of 8 KiB of weights are on their way while one is used; where a tile has few features, it has so many
    inputs that those of x take most of the shared memory. Each of four warps takes a quarter of a tile's inputs, at
    least 32 of them: 64 bytes in a row, what memory reads at once.

    Args:
        num_features: of the result.
        num_sms: of the device.
        is_gated: whether each feature has two rows of weights.
    """
    block_n = next((size for size in (32, 16) if num_features >= 2 * size * num_sms), None)
    if block_n is None:
        block_n = 16 if num_features >= 16 * num_sms else 8
    elements = 4096 // (2 if is_gated else 1)
    block_k = min(512, max(128, elements // block_n))
    return ProductTiles(block_n, block_k, num_warps=4, num_stages=4 if block_n == 8 else 5)
