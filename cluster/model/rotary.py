"""Rotary positions of ChatGLM3: interleaved pairs over the first half of each head.

Only D/2 of a head's D channels turn; the rest carry no position. The table is rounded to the model's dtype before use,
as the published model does. The rotation itself runs in float32 and rounds once: for half precision that is a little
closer to the exact result than the published model, for float32 it is the same arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10000.0


def rotary_table(positions: int, head_dim: int, ratio: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Every angle as cos + i sin, complex64 [positions, head_dim / 4], each part rounded to ``dtype``.

    angle(p, j) = p / (BASE * ratio) ** (2 j / n) with n = head_dim / 2, in float32.
    """
    rotated = head_dim // 2
    exponents = torch.arange(0, rotated, 2, dtype=torch.float32, device=device) / rotated
    frequencies = 1.0 / (BASE * ratio) ** exponents
    angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=device), frequencies)
    pairs = torch.stack((angles.cos(), angles.sin()), dim=-1)
    return torch.view_as_complex(pairs.to(dtype).float())


def rotate_(heads: Tensor, turns: Tensor) -> None:
    """Rotate in place: ``heads`` [T, N, D] (last axis contiguous), ``turns`` complex64 [T, 1, D / 4]."""
    tokens, num_heads, dim = heads.shape
    rotated = heads[..., : dim // 2]
    exact = rotated.float()  # the same memory where it is float32 already
    torch.view_as_complex(exact.view(tokens, num_heads, dim // 4, 2)).mul_(turns)
    if exact.dtype is not rotated.dtype:
        rotated.copy_(exact)
