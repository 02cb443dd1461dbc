"""The one place of this package that knows tensors; nothing here imports it before a caller asks for tensors."""

from __future__ import annotations

from typing import Any

import torch

from cluster.errors import InvalidRequestError


def as_tensor(rows: Any) -> torch.Tensor:
    """Ids as int64, [n] or [batch, n].

    Raises:
        InvalidRequestError: the rows differ in length.
    """
    try:
        return torch.tensor(rows, dtype=torch.int64)
    except ValueError as error:
        raise InvalidRequestError(
            "Rows of different lengths make no tensor; ask for padding=True.", param="padding"
        ) from error
