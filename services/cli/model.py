"""``chatglm-cluster model``: look into a checkpoint folder, or make one: with random weights, or the demo model.

Torch is imported by the commands that need it, so that the rest of the command line starts at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cluster.errors import CheckpointError
from services.cli.demo_model import eval_demo, train_demo

if TYPE_CHECKING:
    from cluster.model.checkpoint import CheckpointReport

app = typer.Typer(help="Check, make and measure checkpoint folders.", no_args_is_help=True)
app.command("train-demo")(train_demo)
app.command("eval-demo")(eval_demo)

GIB = 2**30


@app.command()
def check(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint in the published format.")]) -> None:
    """Say whether a checkpoint can be served, and print its shape and the memory it takes. Reads headers only."""
    from cluster.model.checkpoint import inspect_checkpoint  # noqa: PLC0415 - torch, see above

    report = inspect_checkpoint(folder)
    if report.config is not None:
        Console().print(_table(report))
    if report.problem:
        raise CheckpointError(report.problem)
    typer.secho("This checkpoint can be served.", fg=typer.colors.GREEN)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint in the published format.")],
) -> None:
    """Read and try a whole checkpoint: file sums, tensors, finite weights, perplexity of a fixed text, one answer.

    Takes the memory of the model in float32. Ends with status 1 when a check fails, and says which.
    """
    from cluster.model import verification  # noqa: PLC0415 - torch, see above

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total)

        checks = []
        for check in verification.verify(folder, show):
            checks.append(check)
            mark, color = ("✓", typer.colors.GREEN) if check.passed else ("✗", typer.colors.RED)
            typer.secho(f"{mark} {check.name}: {check.said}", fg=color)
    if failed := [check.name for check in checks if not check.passed]:
        typer.secho(f"Failed: {', '.join(failed)}.", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder to write.")],
    size: Annotated[str, typer.Option(help="demo, tiny, small, base or 6b.")] = "small",
    seed: Annotated[int, typer.Option(help="Equal seeds give equal weights.")] = 0,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    context: Annotated[int | None, typer.Option(help="Positions; default: the size's own.", min=16)] = None,
) -> None:
    """Write a checkpoint with random weights in the published format. Its answers are gibberish."""
    from cluster.model.checkpoint import write_random_checkpoint  # noqa: PLC0415 - torch, see above

    with Progress(console=Console(stderr=True)) as bars:
        bar = bars.add_task(f"writing {folder}", total=None)
        write_random_checkpoint(
            folder,
            size,
            seed,
            dtype=dtype,
            context=context,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    typer.echo(f"{folder} is written; serve it with: chatglm-cluster up --model {folder}")


def _table(report: CheckpointReport) -> Table:
    config = report.config
    assert config is not None
    table = Table("", str(report.path), show_header=True)
    table.add_row("layers × hidden", f"{config.num_layers} × {config.hidden_size}")
    table.add_row(
        "heads", f"{config.num_attention_heads} of {config.kv_channels}, {config.multi_query_group_num} KV groups"
    )
    table.add_row("vocabulary", f"{config.padded_vocab_size} rows, {report.vocab_size} known to the tokenizer")
    table.add_row("context", f"{report.context_length} tokens")
    table.add_row(
        "parameters", f"{report.num_parameters / 1e6:,.1f} M, stored as {', '.join(report.stored_dtypes) or '?'}"
    )
    for dtype, size in report.weight_bytes.items():
        kv_gib = report.kv_bytes_per_token[dtype] * report.context_length / GIB
        table.add_row(f"memory in {dtype}", f"{size / GIB:.2f} GiB weights, {kv_gib:.2f} GiB KV per full context")
    return table
