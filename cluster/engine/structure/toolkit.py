"""Compiled structures in the engine's process: taken over from the one that compiles, and given out as guides.

Importing this module loads xgrammar.
"""

from __future__ import annotations

from dataclasses import dataclass

import xgrammar

from cluster.engine.structure.grammars import tokenizer_info
from cluster.engine.structure.guide import GrammarGuide, GuideTables
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.engine.structure.workshop import Workshop
from cluster.protocol import Structure


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled structure. ``size`` is what it holds in bytes."""

    compiled: xgrammar.CompiledGrammar
    tables: GuideTables
    size: int

    def guide(self, stop_ids: tuple[int, ...]) -> GrammarGuide:
        """A guide at its start, for an answer that these ids end."""
        return GrammarGuide(self.compiled, self.tables, stop_ids)


class Toolkit:
    """Compiles structures for one vocabulary, in ``workshop``. Blocks; one thread."""

    def __init__(self, vocabulary: Vocabulary, workshop: Workshop) -> None:
        self._workshop = workshop
        self._tables = GuideTables.of(vocabulary)
        self._info = tokenizer_info(vocabulary)

    def compile(self, structure: Structure) -> Grammar | str:
        """A grammar, or the reason why there is none. Raises NoReplicaError as ``Workshop.compile``."""
        reply = self._workshop.compile(structure)
        if reply.error:
            return reply.error
        compiled = xgrammar.CompiledGrammar.deserialize_json(reply.grammar, self._info)
        return Grammar(compiled, self._tables, compiled.memory_size_bytes)
