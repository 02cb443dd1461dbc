"""The sampling columns of sequences that are about to draw, made the way the engine makes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.engine.block_manager import BlockManager
from cluster.engine.guide import Guide
from cluster.engine.plan import SamplingColumns
from cluster.engine.sampling.columns import columns
from cluster.engine.sequence import Sequence
from cluster.protocol import GenerateRequest, SamplingParams


@dataclass(frozen=True)
class Asked:
    """One drawing row: what it asks for, and where its answer stands."""

    sampling: SamplingParams
    prompt: list[int] = field(default_factory=lambda: [0])
    output: list[int] = field(default_factory=list)
    guide: Guide | None = None


def plain(**fields: object) -> SamplingParams:
    """Draw from the whole distribution, but for ``fields``."""
    return SamplingParams(**{"max_new_tokens": 1000, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **fields})


def sequence_of(asked: Asked) -> Sequence:
    """The sequence of a row; its ids stand after the emitted ones."""
    request = GenerateRequest(
        attempt=1,
        request_id="",
        tenant="t",
        prompt_ids=asked.prompt,
        output_ids=asked.output,
        sampling=asked.sampling,
    )
    table = BlockManager(num_pages=2, page_size=4, model_id="m").open("t")
    return Sequence.from_request(request, arrival=0, now=0.0, table=table, guide=asked.guide)


def columns_of(rows: list[Asked], vocab_size: int) -> SamplingColumns:
    """The columns of a step in which all ``rows`` draw."""
    return columns(list(range(len(rows))), [sequence_of(row) for row in rows], vocab_size)
