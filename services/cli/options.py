"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.settings import ENV_PREFIX, read_settings
from services.state import StateFolder

StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", help=f"The cluster's state folder. [{ENV_PREFIX}STATE_DIR]", show_default=False),
]


def state_folder(state_dir: Path | None) -> StateFolder:
    """The state folder an option, the environment or the default names."""
    return StateFolder(read_settings(state_dir=state_dir).state_dir)
