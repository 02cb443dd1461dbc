"""Structures and vocabularies in xgrammar's terms.

A structure's grammar is that of the whole answer, so it begins with what ChatGLM3 writes in front of any text.
"""

from __future__ import annotations

from typing import Final

import xgrammar

from cluster.engine.structure.vocabulary import Vocabulary
from cluster.protocol import Structure, StructureKind

# ChatGLM3 opens every answer with a header line, which is empty for prose, and the text behind it with SentencePiece's
# dummy blank. None of it is shown. With the newline an answer can never be taken for a tool call either.
_HEADER: Final = 'root ::= " "? "\\n" " "?'

# Blanks in a row that a JSON answer may hold between two parts: enough for indentation, and no model that has begun to
# write blanks can go on for ever.
_MAX_BLANKS: Final = 20

_ANY_OBJECT: Final = '{"type": "object"}'


def grammar_of(structure: Structure) -> xgrammar.Grammar:
    """The grammar of an answer that has this structure. Raises RuntimeError or ValueError with the library's reason."""
    return xgrammar.Grammar.concat(xgrammar.Grammar.from_ebnf(_HEADER), _body(structure))


def tokenizer_info(vocabulary: Vocabulary) -> xgrammar.TokenizerInfo:
    """The vocabulary as xgrammar takes it. A compiled grammar fits every process in which this is equal."""
    return xgrammar.TokenizerInfo(
        vocabulary.pieces,
        xgrammar.VocabType.RAW,  # the pieces are bytes already, as the detokenizer writes them
        vocab_size=vocabulary.size,
        stop_token_ids=list(vocabulary.stop_ids),
    )


def _body(structure: Structure) -> xgrammar.Grammar:
    match structure.kind:
        case StructureKind.JSON_OBJECT:
            return xgrammar.Grammar.from_json_schema(_ANY_OBJECT, strict_mode=False, max_whitespace_cnt=_MAX_BLANKS)
        case StructureKind.JSON_SCHEMA:
            return xgrammar.Grammar.from_json_schema(structure.text, max_whitespace_cnt=_MAX_BLANKS)
        case StructureKind.REGEX:
            return xgrammar.Grammar.from_regex(structure.text)
        case StructureKind.GRAMMAR:
            return xgrammar.Grammar.from_ebnf(structure.text)
