"""The memory that holds keys and values of every token, in pages that the scheduler hands out.

The engine allocates it once; attention backends write and read it through the slots of a page.
"""

from __future__ import annotations

import torch

from learnsgl.models.config import ModelConfig


class KVPool:
    """Keys and values, layer by layer.

    Token j of page p has slot `p * page_size + j`. The slots of one head lie behind each other, so that attending to
    a context whose pages follow each other reads memory in one go.

    Attributes:
        token_bytes: what one token takes over all layers.
        layers: for each layer [2, KV, num_pages * page_size, D], keys and then values. Not cleared: a slot is written
            before it is read.
    """

    def __init__(
        self, config: ModelConfig, *, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_kv_heads = config.num_kv_heads
        shape = (2, config.num_kv_heads, num_pages * page_size, config.head_dim)
        self.token_bytes = self.page_bytes(config, page_size=1, dtype=dtype)
        self.layers = [torch.empty(shape, dtype=dtype, device=device) for _ in range(config.num_layers)]

    @staticmethod
    def page_bytes(config: ModelConfig, *, page_size: int, dtype: torch.dtype) -> int:
        """Bytes that one page takes over all layers."""
        return page_size * 2 * config.num_kv_heads * config.head_dim * config.num_layers * dtype.itemsize
