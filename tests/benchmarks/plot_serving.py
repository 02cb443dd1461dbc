"""Draws what ``bench_serving --json`` kept: one figure per checkpoint, ours beside a peer by concurrency.

Bars are medians over the runs; on top stands ours over the peer's.

    python -m tests.benchmarks.plot_serving FILE… --out docs/benchmarks
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.bench_serving import COLUMNS, Load, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Loads = dict[tuple[str, int], list[Load]]

PANELS = {  # the column: what stands above its bars
    "tok/s": "output tokens per second\n(more is better)",
    "last turn's TTFT p50 ms": "last turn's time to first token, median, ms\n(less is better)",
    "gap p99 ms": "time between two tokens, p99, ms\n(less is better)",
}
WIDTH = 0.4


def draw(file: Path, title: str, loads: Loads, *, ours: str, peer: str) -> None:
    """One figure; equal numbers give equal bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    streams = sorted({count for server, count in loads if server == ours} & {c for s, c in loads if s == peer})
    with mpl.rc_context({"svg.hashsalt": file.name}):
        figure = Figure(figsize=(11, 4), layout="constrained")
        figure.suptitle(f"{title}, {ours} ÷ {peer} on top")
        for axes, column in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
            figures = [[COLUMNS[column](loads[server, count]) for count in streams] for server in (ours, peer)]
            panel(axes, streams, figures, names=(ours, peer), says=PANELS[column])
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})


def panel(axes: Axes, streams: list[int], figures: list[list[float]], *, names: tuple[str, str], says: str) -> None:
    """Two bars per concurrency and their ratio."""
    places = range(len(streams))
    for offset, name, values in zip((-WIDTH / 2, WIDTH / 2), names, figures, strict=True):
        axes.bar([place + offset for place in places], values, WIDTH, label=name)
    for place, mine, other in zip(places, *figures, strict=True):
        axes.annotate(
            ratio(mine, other),
            (place, max(mine, other)),
            (0, 3),
            textcoords="offset points",
            ha="center",
            weight="bold",
        )
    axes.set_xticks(places, [str(count) for count in streams])
    axes.set(xlabel="streams at once")
    axes.set_title(says, fontsize="medium")
    axes.margins(y=0.12)
    axes.legend(loc="upper left" if figures[0][0] <= figures[0][-1] else "upper right")


def ratio(mine: float, other: float) -> str:
    """Two digits behind the point."""
    return f"{mine / other:.2f}" if other else "–"


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path(), help="folder; files are serving-CHECKPOINT.svg")
    parser.add_argument("--ours", default="ours")
    parser.add_argument("--peer", default="peer")
    options = parser.parse_args()
    for checkpoint, loads in read(options.files).items():
        draw(options.out / f"serving-{checkpoint}.svg", checkpoint, loads, ours=options.ours, peer=options.peer)


if __name__ == "__main__":
    main()
