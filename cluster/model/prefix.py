"""Prefix tuning: learnt keys and values that stand before every sequence.

They are not rotated and take no positions: the first real token is still at position 0 and sees all of them. The
encoder makes them from a table of rows, once; nothing of it depends on the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cluster.model.config import ChatGLM3Config


class PrefixEncoder(nn.Module):
    """The published ``transformer.prefix_encoder``, kept and computed in float32, as the published programs run it.

    Born without storage. ``trans`` exists in prefixes with a projection alone.

    Args:
        config: its ``pre_seq_len`` is p, the number of rows.
    """

    def __init__(self, config: ChatGLM3Config) -> None:
        super().__init__()
        rows, width, hidden = config.pre_seq_len, config.prefix_width, config.hidden_size
        self._shape = (rows, config.num_layers, 2, config.multi_query_group_num, config.kv_channels)
        self.embedding = nn.Embedding(rows, width, device="meta", dtype=torch.float32)
        if config.prefix_projection:
            self.trans = nn.Sequential(
                nn.Linear(width, hidden, device="meta", dtype=torch.float32),
                nn.Tanh(),
                nn.Linear(hidden, width, device="meta", dtype=torch.float32),
            )
        self.requires_grad_(requires_grad=False)

    def forward(self, dtype: torch.dtype) -> Tensor:
        """Keys and values [L, p, 2, G, D] in ``dtype``; axis 2 is (key, value)."""
        weight = self.embedding.weight
        numbers = torch.arange(len(weight), device="cpu" if weight.is_meta else weight.device)
        rows: Tensor = self.embedding(numbers)  # called, so that a weight that is offloaded is brought
        if hasattr(self, "trans"):
            rows = self.trans(rows)
        return rows.view(self._shape).transpose(0, 1).to(dtype).contiguous()
