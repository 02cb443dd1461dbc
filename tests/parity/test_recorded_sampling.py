"""The filters keep the sets, and give the probabilities, that the published model's own samplers were recorded to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cluster.engine.sampling.draw import Filters, draw, keep
from tests.parity.recorded import assert_close, load_json, load_tensors

HIDDEN_TOP_K = 50  # the library default that is active although the published methods never mention it
CASES = load_json("sampling")["cases"]
WIDTHS = [832, 512]  # the whole vocabulary, and a shortcut over the best


def columns(case):
    """What a recorded case filters by."""
    given = case["kwargs"]
    return Filters(
        np.array([given["temperature"]], np.float32),
        np.array([given["top_p"]], np.float32),
        np.array([given.get("top_k", HIDDEN_TOP_K)], np.int32),
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["key"]))
def test_filters_keep_the_recorded_ids_and_probabilities(case, width):
    """Temperature, top-k, top-p, in that order."""
    recorded = load_tensors("sampling")
    kept = keep(recorded[f"logits_{case['key']}"][None], columns(case), candidates=width)
    assert kept.is_complete.all()
    assert case["kept_ids"] == sorted(kept.ids[kept.probabilities > 0].tolist())
    dense = torch.zeros(832, dtype=torch.float64)
    dense[kept.ids[0]] = kept.probabilities[0] / kept.probabilities.sum()
    assert_close(dense.float(), recorded[f"probs_{case['key']}"], 1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["key"]))
def test_draws_follow_the_recorded_probabilities(case):
    """Evenly spaced draws give each id its share of them, to within one draw."""
    draws = 2000
    recorded = load_tensors("sampling")
    logits = recorded[f"logits_{case['key']}"].expand(draws, -1)
    ids = draw(logits, columns(case).take([0] * draws), (np.arange(draws) + 0.5) / draws)
    counts = torch.bincount(ids, minlength=832)
    assert ((counts - recorded[f"probs_{case['key']}"] * draws).abs() <= 1.0).all()
