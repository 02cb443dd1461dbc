"""Structures compiled in the test's own process, for the tiny model of the parity data."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import xgrammar

from cluster.engine.structure.grammars import grammar_of, tokenizer_info
from cluster.engine.structure.guide import GrammarGuide, GuideTables
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.protocol import Structure, StructureKind
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from services.turns.projection import Projection

TINY = Path(__file__).parents[1] / "parity" / "data" / "tiny"
TOKENIZER = ChatGLM3Tokenizer.from_pretrained(TINY)
VOCABULARY = Vocabulary.of(TOKENIZER, 832)  # three rows of padding behind the tokenizer's last id
TABLES = GuideTables.of(VOCABULARY)
COMPILER = xgrammar.GrammarCompiler(tokenizer_info(VOCABULARY), max_threads=1, cache_enabled=False)


@cache
def compiled(structure: Structure) -> xgrammar.CompiledGrammar:
    return COMPILER.compile_grammar(grammar_of(structure))


def guide(kind: StructureKind, text: str = "", *, stop_ids: tuple[int, ...] = TOKENIZER.stop_ids) -> GrammarGuide:
    """A guide at its start."""
    return GrammarGuide(kind, compiled(Structure(kind=kind, text=text)), TABLES, stop_ids)


def allowed(guide: GrammarGuide) -> set[int]:
    """The ids that a guide lets come next; the buffer holds garbage before."""
    words = np.full_like(TABLES.text, 0x5A5A5A5A)
    guide.fill(words)
    return set(np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist())


def ids_of(text: str) -> list[int]:
    """The ids of an answer with this text, as the model would write it."""
    return [*TOKENIZER.encode_text("\n"), *TOKENIZER.encode_text(text)]


def shown(ids: list[int]) -> str:
    """What a caller reads of an answer."""
    projection = Projection(TOKENIZER)
    projection.push(ids)
    projection.close()
    return projection.text
