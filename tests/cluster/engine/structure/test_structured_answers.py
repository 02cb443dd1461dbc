"""Random weights over the real engine: whatever the model would like to say, the answer has its structure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache

import jsonschema
import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.engine.guide import Guide
from cluster.engine.runner import ModelRunner
from cluster.model.loader import load_model
from cluster.protocol import Finish, FinishReason, GenerateRequest, SamplingParams, StructureKind, Tokens
from tests.support.structures import TINY, TOKENIZER, VOCABULARY, allowed, guide, shown

CONFIG = EngineConfig(model_id="tiny", context_length=1024, vocab_size=VOCABULARY.size, max_num_seqs=16)
BLANKS = {i: -100.0 for i, piece in enumerate(VOCABULARY.pieces) if piece and not piece.strip()}  # keeps answers short

scalars = st.sampled_from(
    [
        {"type": "string", "maxLength": 4},
        {"type": "integer", "minimum": -9, "maximum": 120},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["中文", '😀\n"x"', 3, [None]]},
        {"type": "string", "pattern": "^[a-c]{2}é?$"},
        {"const": {"a": "\\"}},
    ]
)
schemas = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(lambda item, most: {"type": "array", "items": item, "maxItems": most}, inner, st.integers(0, 2)),
        st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner),
        st.dictionaries(st.sampled_from(["a", "名", "x y"]), inner, max_size=2).map(
            lambda parts: {"type": "object", "properties": parts, "required": sorted(parts)[:1]}
        ),
    ),
    max_leaves=4,
)


@cache
def runner() -> ModelRunner:
    model = load_model(TINY, dtype=torch.float32, device=torch.device("cpu"))
    return ModelRunner(model, num_pages=400, page_size=CONFIG.page_size)


def asking(attempt: int, *, seed: int = 0, output_ids: Sequence[int] = (), **fields: object) -> GenerateRequest:
    defaults = {"max_new_tokens": 300, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "logit_bias": BLANKS}
    return GenerateRequest(
        attempt=attempt,
        request_id="",
        tenant="t",
        prompt_ids=[TOKENIZER.gmask_id, TOKENIZER.sop_id, *TOKENIZER.encode_text(f"prompt {attempt}")],
        output_ids=list(output_ids),
        sampling=SamplingParams(**{**defaults, "seed": seed, "stop_ids": TOKENIZER.stop_ids, **fields}),
    )


def run(*asked: tuple[GenerateRequest, Guide | None]) -> dict[int, tuple[list[int], Finish]]:
    """All of them at once; per attempt its ids, those of earlier attempts included, and its last event."""
    engine = Engine(runner(), CONFIG)
    ids = {request.attempt: list(request.output_ids) for request, _ in asked}
    finishes: dict[int, Finish] = {}
    for request, follower in asked:
        engine.submit(request, follower)
    while engine.has_work:
        for attempt, event in engine.step():
            if isinstance(event, Tokens):
                ids[attempt] += event.ids
            else:
                finishes[attempt] = event
    return {attempt: (ids[attempt], finishes[attempt]) for attempt in ids}


def answer(request: GenerateRequest, follower: Guide) -> tuple[str, FinishReason]:
    ids, finish = run((request, follower))[request.attempt]
    assert not finish.error
    return shown(ids), finish.reason


def test_bounded_strings_of_json_hold_no_control_characters() -> None:
    """JSON forbids them raw, and a bound on the length must not let them in."""
    follower = guide(StructureKind.JSON_SCHEMA, json.dumps({"type": "string", "maxLength": 4}))
    for token_id in TOKENIZER.encode_text('\n"'):
        assert follower.accept(token_id)
    controls = {token_id for token_id, piece in enumerate(VOCABULARY.pieces) if set(piece) & set(range(0x20))}
    assert controls
    assert not controls & allowed(follower)


@settings(max_examples=25)
@given(schema=schemas, temperature=st.sampled_from([0.0, 1.0]), seed=st.integers(0, 2**32))
def test_answers_are_valid_by_their_schema(schema: dict[str, object], temperature: float, seed: int) -> None:
    """What the caller reads is a JSON document of the schema, whole."""
    follower = guide(StructureKind.JSON_SCHEMA, json.dumps(schema))
    text, reason = answer(asking(1, seed=seed, temperature=temperature), follower)
    assert reason is FinishReason.STOP
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "expression", [r"(\d{3}-){2}\d{4}", "(中|😀|\\\\){3,5}", "[^\\x00-\\x7f]{1,6}", "yes|no|maybe"]
)
def test_answers_match_their_expression(expression: str, temperature: float) -> None:
    """The whole answer does, characters of several bytes included."""
    text, reason = answer(asking(1, temperature=temperature), guide(StructureKind.REGEX, expression))
    assert reason is FinishReason.STOP
    assert re.fullmatch(expression, text)


def test_answers_are_sentences_of_their_grammar() -> None:
    """A grammar that no regular expression could replace: balanced brackets around a word."""
    grammar = 'root ::= "<" root ">" | "[" root "]" | "猫"'
    text, reason = answer(asking(1, seed=3), guide(StructureKind.GRAMMAR, grammar))
    assert reason is FinishReason.STOP
    half = len(text) // 2
    assert text[half] == "猫"
    assert text[half + 1 :] == text[:half][::-1].translate(str.maketrans("<[", ">]"))


def test_answer_that_is_cut_is_the_beginning_of_one() -> None:
    """With the tokens used up it ends for length; what is there can still become valid."""
    ids, finish = run((asking(1, max_new_tokens=12), guide(StructureKind.REGEX, "[a-z]{200}")))[1]
    assert (finish.reason, len(ids)) == (FinishReason.LENGTH, 12)
    assert re.fullmatch("[a-z]{1,200}", shown(ids))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("share", [0, 1, 3, 7, 100])
def test_a_moved_answer_goes_on_as_if_undisturbed(share: int, temperature: float) -> None:
    """Its ids are replayed into a new guide, in the middle of a string or behind the last one."""
    schema = json.dumps(
        {"type": "object", "properties": {"名": {"type": "string", "maxLength": 20}}, "required": ["名"]}
    )
    request = asking(1, seed=5, temperature=temperature)
    whole, finish = run((request, guide(StructureKind.JSON_SCHEMA, schema)))[1]
    moved = msgspec.structs.replace(request, output_ids=whole[:share])
    assert run((moved, guide(StructureKind.JSON_SCHEMA, schema)))[1][0] == whole
    assert finish.reason is FinishReason.STOP


def test_structures_and_free_text_share_a_batch() -> None:
    """Each row has its own structure, and a free row draws as it does without them."""
    expressions = {1: "[0-9]{5,9}", 2: "(ab)+c", 3: '"[^"]{0,9}"'}
    free = asking(9, max_new_tokens=30)
    alone = run((free, None))[9][0]
    together = run(
        (free, None), *((asking(i, seed=i), guide(StructureKind.REGEX, text)) for i, text in expressions.items())
    )
    assert together[9][0] == alone
    for attempt, expression in expressions.items():
        assert re.fullmatch(expression, shown(together[attempt][0]))


def test_a_dead_end_fails_its_own_request() -> None:
    """A grammar that cannot be finished ends with an error of its own; its neighbours get their answers."""
    dead = guide(StructureKind.GRAMMAR, 'root ::= "a" never\nnever ::= "b" never2\nnever2 ::= never2')
    answers = run((asking(1), dead), (asking(2), guide(StructureKind.REGEX, "c{3}")))
    assert (answers[1][1].reason, answers[1][1].error) == (FinishReason.FAILED, "nothing_allowed")
    assert answers[2][1].reason is FinishReason.STOP
    assert shown(answers[2][0]) == "ccc"


def test_without_stop_ids_an_answer_ends_with_its_structure() -> None:
    """No stop id can be drawn, and none is needed."""
    request = asking(1, stop_ids=())
    text, reason = answer(request, guide(StructureKind.REGEX, "(yes|no)!", stop_ids=()))
    assert reason is FinishReason.STOP
    assert text in {"yes!", "no!"}
