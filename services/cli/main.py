"""The command tree, and how errors reach a person: one sentence on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import sys

import typer

from cluster.errors import ClusterError
from services.cli import change, chat, conversation, down, env, key, model, queue, status, tenant, up

app = typer.Typer(
    name="chatglm-cluster",
    help="Serve ChatGLM3: pinned KV caches, durable conversations, OpenAI's HTTP interface.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("env")(env.env)
app.command("status")(status.status)
app.command("scale")(change.scale)
app.command("restart")(change.restart)
app.command("chat")(chat.chat)
app.add_typer(key.app, name="key")
app.add_typer(tenant.app, name="tenant")
app.add_typer(queue.app, name="queue")
app.add_typer(conversation.app, name="conversation")
app.add_typer(model.app, name="model")


def main() -> None:
    """Entry point of the installed command."""
    try:
        app()
    except ClusterError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        sys.exit(2)
