"""Beam search gives what transformers 4.40.2 gave on the same logits, where later versions end otherwise.

The expected ids come from that version's ``generate`` over the blocks of this project.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.parity.shell import shell, tokenizer

RECORDED = {
    "a row goes on while a finished candidate could be beaten": (
        "tiny-32k",
        "tell me about boats",
        {"num_beams": 2, "max_new_tokens": 12, "eos_token_id": [828, 61, 442, 2, 300, 301]},
        [[614, 315, 155, 371, 315, 756, 717, 298, 828], [614, 315, 155, 371, 315, 756, 828, 0, 0]],
    ),
    "a row that is full keeps out what the limit cut": (
        "tiny",
        "Hello",
        {"num_beams": 3, "max_new_tokens": 4, "early_stopping": True, "eos_token_id": [2, 826, 828]},
        [[301, 460, 643, 2], [301, 2, 0, 0], [446, 2, 0, 0]],
    ),
    "a worse beam with a stop id stays": (
        "tiny-32k",
        "深圳的天气",
        {"num_beams": 2, "max_new_tokens": 5, "early_stopping": True, "eos_token_id": [2, 826, 828]},
        [[371, 315, 184, 788, 2], [756, 2, 0, 0, 0]],
    ),
}


def answers(model, query, given):
    inputs = tokenizer().build_chat_input(query)
    made = shell(model).generate(**inputs, do_sample=False, num_return_sequences=given["num_beams"], **given)
    return made[:, inputs.input_ids.shape[1] :].tolist()


@pytest.mark.parametrize(("model", "query", "given", "expected"), RECORDED.values(), ids=RECORDED)
def test_a_search_ends_as_the_published_one(model, query, given, expected):
    """Every returned beam, with the first stop id behind those that ended."""
    assert answers(model, query, given) == expected


def test_searches_of_several_threads_do_not_mix():
    """What a search remembers of its steps is its own."""
    cases = [case[:3] for case in RECORDED.values()] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: answers(*case), cases))
    assert found == [case[3] for case in RECORDED.values()] * 4


def test_a_search_without_stop_ids_runs_to_its_limit():
    """An empty list is no stop id."""
    [first, _] = answers("tiny", "Hello", {"num_beams": 2, "max_new_tokens": 30, "eos_token_id": []})
    assert len(first) == 30
