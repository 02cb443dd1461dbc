"""``chatglm-cluster down``: stops the cluster of a state folder, and removes what a killed one has left."""

from __future__ import annotations

import typer

from services import ray_environment
from services.cli.options import StateDir, state_folder
from services.nodes import answers
from services.runs import end_run
from services.state import Run, StateFolder
from services.takeover import take_over


def down(state_dir: StateDir = None) -> None:
    """Stop the cluster of the state folder, however it was started or has ended. Conversations are kept.

    Safe at any time: a cluster that runs ends as on Ctrl-C; processes, sockets and files that a killed one has left are
    removed; only what was started on this state folder is touched. The application of a killed `up --address` is
    removed from its Ray cluster; that needs the environment in which `ray start` ran.
    """
    state = state_folder(state_dir)
    if not state.path.exists():
        typer.echo(f"Nothing runs on {state.path}.")
        return
    was_held = take_over(state)
    try:
        typer.echo(_remove(state, was_held=was_held))
    finally:
        state.release()


def _remove(state: StateFolder, *, was_held: bool) -> str:
    run = state.read_run()
    if run is None:
        return f"Stopped the cluster on {state.path}." if was_held else f"Nothing runs on {state.path}."
    if run.address:
        told = _leave(run)
        end_run(state)
        return told
    ended = end_run(state)
    return f"Ended what a killed cluster had left on {state.path}: {ended} processes. Its conversations are kept."


def _leave(run: Run) -> str:
    """Remove the application that a killed ``up --address`` has left."""
    if not answers(run.address):
        return f"Ray at {run.address}, which the killed cluster had joined, does not answer; nothing is left here."
    ray_environment.prepare(run)
    from services.joined_ray import leave  # noqa: PLC0415 - Ray reads its environment at import

    leave(run.address, lambda text: typer.secho(text, dim=True, err=True))
    return f"Removed the application from Ray at {run.address}, which runs on."
