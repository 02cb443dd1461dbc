"""``chatglm-cluster env``: the environment that all machines of a cluster share."""

from __future__ import annotations

import shlex

import typer

from services.ray_environment import complete


def env() -> None:
    """Print `export` lines for every machine of a cluster, secrets among them. Needed before `ray start`.

    Run it once, keep its output in a file that only you can read, take that to every machine, and set it before
    `ray start` and before `up --address`. What is set already is printed as it is: a second call changes nothing.
    """
    for name, value in complete().items():
        typer.echo(f"export {name}={shlex.quote(value)}")
