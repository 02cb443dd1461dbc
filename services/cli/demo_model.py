"""``chatglm-cluster model train-demo`` and ``eval-demo``: make and measure the model that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cluster.demo import CHECKPOINT

if TYPE_CHECKING:
    from cluster.demo.evaluation import Score
    from cluster.demo.training import Progress as Step

PerLanguage = Annotated[int, typer.Option(help="Dialogues of each kind in each language to evaluate.", min=1)]

_TEXT: Final = TextColumn("{task.description}")
_LINE_EVERY: Final = 100  # steps; half a minute on two cores


def train_demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Replaced when all is done.")] = CHECKPOINT,
    seed: Annotated[int, typer.Option(help="Of tokenizer, data and weights.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Fewer are faster and worse; default: the recipe's.", min=1)] = None,
    per_language: PerLanguage = 100,
) -> None:
    """Train the demo model from a seed, evaluate it, and write its card and loss plot. About an hour on two cores.

    Uses a GPU where there is one. Ends with status 1 when a target of the evaluation is missed.
    """
    from cluster.demo.making import make_demo_model  # noqa: PLC0415 - torch, seconds that other commands need not wait
    from cluster.demo.training import Recipe  # noqa: PLC0415 - likewise

    recipe = Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps)
    console = Console(stderr=True)
    with Progress(BarColumn(), MofNCompleteColumn(), _TEXT, TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task("making the tokenizer", total=recipe.steps)

        def report(step: Step) -> None:
            said = f"loss {step.loss:.3f}, {step.tokens / step.seconds:,.0f} tokens/s"
            bars.update(bar, completed=step.step, description=said)
            if not console.is_terminal and step.step % _LINE_EVERY == 0:  # a log shows no bar
                console.print(f"step {step.step} of {recipe.steps}: {said}")

        scores = make_demo_model(folder, recipe, report, per_language=per_language)
    typer.echo(f"{folder} is written; its card is {folder / 'README.md'}")
    _tell(scores)


def eval_demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint of the demo model.")] = CHECKPOINT,
    per_language: PerLanguage = 100,
) -> None:
    """Measure a demo model on what it was never taught. Ends with status 1 when a target is missed."""
    from cluster.demo.making import measure  # noqa: PLC0415 - torch, see above

    _tell(measure(folder, per_language))


def _tell(scores: Mapping[str, Sequence[Score]]) -> None:
    from cluster.demo.evaluation import target  # noqa: PLC0415 - torch, see above

    table = Table("measure", "target", *scores)
    for row in zip(*scores.values(), strict=True):
        cells = (f"[{'green' if score.passed else 'red'}]{score.share:.1%}[/] of {score.total}" for score in row)
        table.add_row(row[0].measure, target(row[0].measure), *cells)
    Console().print(table)
    missed = {score.measure for each in scores.values() for score in each if not score.passed}
    if missed:
        typer.secho(f"Targets missed: {', '.join(sorted(missed))}.", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)
