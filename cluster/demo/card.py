"""The model card: what the demo model is, what it was taught, how it does, and what it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cluster.demo import MODEL_NAME
from cluster.demo.data.languages import LANGUAGES
from cluster.demo.data.writer import LARGEST_ADDEND
from cluster.demo.evaluation import Score, target
from cluster.demo.training import SHAPE, Progress, Recipe

CARD: Final = "README.md"

_HASHED: Final = ("model.safetensors", "tokenizer.model", "config.json")
_TEXT: Final = """\
# {name}

A ChatGLM3 of {parameters:.2f} million parameters that comes with chatglm-cluster, so that a new one answers sensibly
on a CPU and without a download, and so that tests can see whether a conversation was kept. `make demo-model` makes it;
nothing in it comes from the published ChatGLM3 but the architecture and the format.

| | |
|---|---|
| layers × hidden | {layers} × {hidden} |
| heads | {heads} of {channels}, {groups} KV groups |
| FFN, vocabulary, context | {ffn}, {rows}, {context} |
| stored as | bfloat16, {size:.1f} MB |
| languages | {languages} |
| licence | Apache-2.0 |

## Files

{files}

## Data

Conversations written by `cluster/demo/data` from seed {seed}: greetings, small talk, questions about this cluster,
system personas, names, cities and code words told and asked for later, sums of numbers up to {addend}, calls of weather
services and calculators in ChatGLM3's tool format with answers from their results, and an honest answer to everything
else. Values are mostly invented. An eighth of all values and the phrasings marked `~` were never taught. Ids follow the
chat template; the loss counts the model's own tokens and the stop id behind each answer.

{steps:,} steps of {batch:,} tokens, {tokens:.0f} million in all, AdamW, peak rate {rate}; {minutes:.0f} minutes.
Last loss {loss:.3f} nats.

![loss](loss.svg)

## Evaluation

On names, places, values and phrasings that were never taught; `make eval-demo` repeats it. Sampled: temperature 0.8,
top-p 0.8.

{table}

## Limits

It knows nothing about the world and does not reason: it recognises what it was taught, in words close to those it was
taught in, and copies. It adds numbers up to {addend} and nothing else. It calls a tool only for the weather of a named
place or a calculation, and with one argument. Russian names of places are repeated in the case they were written in. A
value in lower case behind a quote may be copied wrongly. Use it for trying and testing the cluster, and for no more.
"""


def write_card(folder: Path, recipe: Recipe, last: Progress, scores: Mapping[str, Sequence[Score]]) -> None:
    """Write ``README.md`` beside the checkpoint's files."""
    weights = folder / "model.safetensors"
    text = _TEXT.format(
        name=MODEL_NAME,
        parameters=weights.stat().st_size / 2 / 1e6,
        layers=SHAPE.num_layers,
        hidden=SHAPE.hidden_size,
        heads=SHAPE.num_attention_heads,
        channels=SHAPE.kv_channels,
        groups=SHAPE.multi_query_group_num,
        ffn=SHAPE.ffn_hidden_size,
        rows=SHAPE.padded_vocab_size,
        context=SHAPE.seq_length,
        size=weights.stat().st_size / 1e6,
        languages=", ".join(LANGUAGES),
        files="\n".join(f"- `{name}`: sha256 `{sha256(folder / name)}`" for name in _HASHED),
        seed=recipe.seed,
        addend=LARGEST_ADDEND,
        steps=recipe.steps,
        batch=recipe.batch_tokens,
        tokens=last.tokens / 1e6,
        rate=recipe.learning_rate,
        minutes=last.seconds / 60,
        loss=last.loss,
        table=table(scores),
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def table(scores: Mapping[str, Sequence[Score]]) -> str:
    """The scores as a Markdown table, one row a measure and one column a mode."""
    rows = [f"| measure | target | {' | '.join(scores)} |", f"|---|---|{'---|' * len(scores)}"]
    for each in zip(*scores.values(), strict=True):
        cells = " | ".join(f"{score.share:.1%} of {score.total}" for score in each)
        rows.append(f"| {each[0].measure} | {target(each[0].measure)} | {cells} |")
    return "\n".join(rows)


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
