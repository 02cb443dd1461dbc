"""The memory that holds all keys and values: pages of a few tokens, each page one contiguous block over all layers.

Layout ``[page, layer, key/value, token, group, channel]``: a page moves between devices as a single copy. Seen as rows
of one token (``tokens``) or of one page of one layer's keys or values (``halves``), an index reaches any of them, so
storing and gathering are one indexed operation per layer for keys and values together.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.engine import huge_pages
from cluster.errors import ConfigurationError
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.config import ChatGLM3Config

_GIB = 1 << 30


class KVPool:
    """Pages on a device, zeroed. Page 0 is the null page: it pads block tables and is never written.

    Attributes:
        pages: [P, L, 2, page_size, G, D].
        tokens: the same memory as [P * L * 2 * page_size, G * D].
        halves: the same memory as [P * L * 2, page_size * G * D].
    """

    def __init__(
        self, config: ChatGLM3Config, *, num_pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.num_layers = config.num_layers
        self.groups, self.dim = config.multi_query_group_num, config.kv_channels
        shape = (num_pages, config.num_layers, 2, page_size, self.groups, self.dim)
        is_cpu = device.type == "cpu"
        self.pages = huge_pages.zeros(*shape, dtype=dtype) if is_cpu else torch.zeros(shape, dtype=dtype, device=device)
        self.tokens = self.pages.view(-1, config.kv_width)
        self.halves = self.pages.view(-1, page_size * config.kv_width)

    def token_rows(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ``tokens`` for each layer: slots [T] -> [L, T, 2], the last axis being (key, value)."""
        pages, offsets = np.divmod(slots, self.page_size)
        return self.half_rows(pages).transpose(0, 2, 1) * self.page_size + offsets[:, None]

    def half_rows(self, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ``halves`` for each layer: pages [N] -> [L, 2, N], the middle axis being (key, value)."""
        firsts = np.arange(self.num_layers * 2).reshape(self.num_layers, 2, 1)
        rows: NDArray[np.int64] = firsts + pages.astype(np.int64) * (self.num_layers * 2)
        return rows


def allocate_pool(model: ChatGLM3Model, num_pages: int, page_size: int) -> KVPool:
    """The pool of a model.

    Raises:
        ConfigurationError: there are too few pages to hold anything, or the device cannot hold so many.
    """
    if num_pages < 2 or page_size < 1:
        raise ConfigurationError(f"A KV pool needs 2 pages of 1 token or more, not {num_pages} of {page_size}.")
    try:
        return KVPool(model.config, num_pages=num_pages, page_size=page_size, dtype=model.dtype, device=model.device)
    except (RuntimeError, MemoryError) as error:  # torch has no common class for what allocators raise
        size = num_pages * page_size * model.config.kv_bytes_per_token(model.dtype)
        raise ConfigurationError(
            f"The KV cache of {num_pages} pages takes {size} bytes, which {model.device} does not have; ask for fewer."
        ) from error


def num_pages_for(memory_bytes: int, config: ChatGLM3Config, dtype: torch.dtype, page_size: int) -> int:
    """Pages (null page included) that fit ``memory_bytes``.

    Raises:
        ConfigurationError: the memory does not hold one sequence of the model's full context; says what would.
    """
    page_bytes = page_size * config.kv_bytes_per_token(dtype)
    needed = -(-config.seq_length // page_size) + 1
    num_pages = memory_bytes // page_bytes
    if num_pages >= needed:
        return num_pages
    raise ConfigurationError(
        f"The KV cache was given {memory_bytes} bytes ({memory_bytes / _GIB:.2f} GiB), which hold "
        f"{max(num_pages - 1, 0) * page_size} tokens; one sequence of this model's {config.seq_length} positions needs "
        f"at least {needed * page_bytes} bytes ({needed * page_bytes / _GIB:.2f} GiB)."
    )
