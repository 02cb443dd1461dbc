"""What the tokenizer returns when it is called: a dict that models take as ``**inputs``."""

from __future__ import annotations

from collections import UserDict
from typing import Any

from cluster.errors import InvalidRequestError


class Encoding(UserDict[str, Any]):
    """``input_ids``, ``attention_mask`` and ``position_ids``, as attributes too; lists, or int64 [batch, n]."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any) -> Encoding:
        """The same with its tensors on ``device``. Changes and returns itself, as transformers' own does."""
        self.data = {name: held.to(device) if hasattr(held, "to") else held for name, held in self.data.items()}
        return self

    def as_tensors(self, kind: str | None) -> Encoding:
        """The same as tensors of ``kind``: "pt" (torch), "np" (numpy), or None for lists.

        Raises:
            InvalidRequestError: another kind, or rows of different lengths.
        """
        if kind is None:
            return self
        if kind not in {"pt", "np"}:
            raise InvalidRequestError(f"return_tensors is {kind!r}; it can be 'pt' or 'np'.", param="return_tensors")
        from cluster.tokenizer.tensors import as_tensor  # noqa: PLC0415  # serving's text side never needs torch

        tensors = {name: as_tensor(rows) for name, rows in self.data.items()}
        return Encoding(tensors if kind == "pt" else {name: tensor.numpy() for name, tensor in tensors.items()})
