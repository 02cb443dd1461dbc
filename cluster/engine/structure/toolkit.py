"""Compiled structures in the engine's process: compiled once they were found harmless, and given out as guides.

Importing this module loads xgrammar.
"""

from __future__ import annotations

from dataclasses import dataclass

import xgrammar

from cluster.engine.structure.grammars import grammar_of, tokenizer_info
from cluster.engine.structure.guide import GrammarGuide, GuideTables
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.engine.structure.workshop import Workshop
from cluster.protocol import Structure, StructureKind


@dataclass(frozen=True, slots=True)
class Grammar:
    """A compiled structure. ``size`` is what it holds in bytes."""

    kind: StructureKind
    compiled: xgrammar.CompiledGrammar
    tables: GuideTables
    size: int

    def guide(self, stop_ids: tuple[int, ...]) -> GrammarGuide:
        """A guide at its start, for an answer that these ids end."""
        return GrammarGuide(self.kind, self.compiled, self.tables, stop_ids)


class Toolkit:
    """Compiles structures for one vocabulary that ``workshop`` has tried. Blocks; one thread."""

    def __init__(self, vocabulary: Vocabulary, workshop: Workshop) -> None:
        self._workshop = workshop
        self._tables = GuideTables.of(vocabulary)
        # Kept by us, per tenant. One thread, which is ours: the engine needs the cores more.
        self._compiler = xgrammar.GrammarCompiler(tokenizer_info(vocabulary), max_threads=1, cache_enabled=False)

    def compile(self, structure: Structure) -> Grammar | str:
        """A grammar, or the reason why there is none. Raises NoReplicaError as ``Workshop.try_out``."""
        if fault := self._workshop.try_out(structure):
            return fault
        compiled = self._compiler.compile_grammar(grammar_of(structure))
        return Grammar(structure.kind, compiled, self._tables, compiled.memory_size_bytes)
