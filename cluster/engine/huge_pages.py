"""Zeroed CPU memory in huge pages, where the kernel gives them on request.

A step reads all weights, and a few kilobytes here and there of the page pool: with pages of 4 KiB much of its time goes
to looking up where they are, above all in a virtual machine, which looks things up twice.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor of zeros; memory is taken when it is first touched. Raises MemoryError."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.zeros(shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"The system does not give {size} bytes.") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel built without them; ordinary pages do the same, slower
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
