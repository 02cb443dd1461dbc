"""What a sequence's weights are depends on its ids, not on how the engine came to them."""

from __future__ import annotations

from array import array

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.engine.sampling.weights import Weights
from tests.fakes.drawing import plain

ids = st.integers(0, 15)
SAMPLING = plain(repetition_penalty=1.7, presence_penalty=0.3, frequency_penalty=-0.7, logit_bias={3: 2.5, 9: -1.0})


def table(weights: Weights, token_ids: list[int]) -> dict[int, tuple[float, float]]:
    weighed = weights.at(array("i", token_ids))
    assert len(set(weighed.ids.tolist())) == len(weighed.ids), "an id is weighed twice"
    return dict(
        zip(
            weighed.ids.tolist(),
            zip(weighed.factors.tolist(), weighed.offsets.tolist(), strict=True),
            strict=True,
        )
    )


@settings(max_examples=60)
@given(prompt=st.lists(ids, min_size=1), output=st.lists(ids, max_size=12), data=st.data())
def test_weights_kept_up_step_by_step_are_those_rebuilt(prompt, output, data):
    """An answer that went on elsewhere, or whose steps drew at other times, is penalised to the same bits."""
    kept_up = Weights(SAMPLING, len(prompt))
    for length in sorted(data.draw(st.sets(st.integers(0, len(output))))):
        kept_up.at(array("i", prompt + output[:length]))
    assert table(kept_up, prompt + output) == table(Weights(SAMPLING, len(prompt)), prompt + output)


def test_weights_are_those_of_the_definition():
    """The repetition penalty sees prompt and output, the others the output; a bias is always there."""
    f32 = np.float32
    assert table(Weights(SAMPLING, 2), [1, 3, 9, 9, 5]) == {
        1: (f32(1.7), 0.0),
        3: (f32(1.7), 2.5),
        5: (f32(1.7), f32(-0.3 + 0.7)),
        9: (f32(1.7), f32(-1.0 - 0.3 + 2 * 0.7)),
    }


def test_a_prompt_costs_nothing_without_a_repetition_penalty():
    """Only ids of the output and biased ones are weighed."""
    weights = Weights(plain(presence_penalty=0.5, logit_bias={4: 1.0}), 3)
    assert table(weights, [7, 8, 9, 8]) == {4: (1.0, 1.0), 8: (1.0, -0.5)}
    assert table(Weights(plain(logit_bias={4: 1.0}), 3), [7, 8, 9, 4]) == {4: (1.0, 1.0)}
    assert Weights.of(plain(), 3) is None
