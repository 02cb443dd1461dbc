"""From a recipe to a finished checkpoint folder: trained, measured, drawn and described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from cluster.demo import MODEL_NAME
from cluster.demo.card import write_card
from cluster.demo.evaluation import GREEDY, SAMPLED, Score, evaluate
from cluster.demo.plot import draw_loss
from cluster.demo.training import SHAPE, Progress, Recipe, train
from cluster.model.writing import new_checkpoint_folder, write_config

LOSS_PLOT: Final = "loss.svg"


def make_demo_model(
    folder: Path, recipe: Recipe, report: Callable[[Progress], None], *, per_language: int
) -> dict[str, list[Score]]:
    """Make the checkpoint, its loss plot and its card; what ``folder`` held is replaced at the very end.

    It is trained on a GPU where there is one.

    Args:
        folder: where it goes.
        recipe: what decides the weights.
        report: called after every step.
        per_language: dialogues of each kind in each language, in the evaluation that the card shows.

    Returns:
        The evaluation by mode, ``greedy`` and ``sampled``.

    Raises:
        ImportError: matplotlib is missing; nothing has been computed yet.
    """
    import matplotlib as mpl  # noqa: F401, PLC0415 - an hour of training must not end in an ImportError

    steps: list[Progress] = []

    def note(step: Progress) -> None:
        steps.append(step)
        report(step)

    with new_checkpoint_folder(folder, replace=True) as draft:
        write_config(draft, SHAPE, MODEL_NAME)
        train(draft, recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu"), note)
        draw_loss(draft / LOSS_PLOT, steps)
        scores = measure(draft, per_language)
        write_card(draft, recipe, steps[-1], scores)
    return scores


def measure(folder: Path, per_language: int) -> dict[str, list[Score]]:
    """Both evaluations of a checkpoint, by mode."""
    modes = {"greedy": GREEDY, "sampled": SAMPLED}
    return {mode: evaluate(folder, per_language=per_language, temperature=modes[mode])[0] for mode in modes}
