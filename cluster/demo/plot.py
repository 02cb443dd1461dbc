"""The loss curve of a training run, as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cluster.demo.training import Progress

_WINDOW: Final = 50  # steps averaged into one point


def draw_loss(file: Path, steps: Sequence[Progress]) -> None:
    """Draw the mean loss over tokens seen; equal numbers give equal bytes.

    Raises:
        ImportError: matplotlib is missing; it comes with the extra ``train``.
    """
    import matplotlib as mpl  # noqa: PLC0415 - needed here only, and not installed for serving
    from matplotlib.figure import Figure  # noqa: PLC0415 - likewise

    groups = [steps[i : i + _WINDOW] for i in range(0, len(steps), _WINDOW)]
    with mpl.rc_context({"svg.hashsalt": file.name}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [group[-1].tokens / 1e6 for group in groups],
            [statistics.fmean(step.loss for step in group) for group in groups],
        )
        axes.set(xlabel="tokens seen, millions", ylabel="loss on learnt tokens, nats", yscale="log")
        axes.grid(alpha=0.3, which="both")
        figure.savefig(file, metadata={"Date": None})
