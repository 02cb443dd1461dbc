"""The application with a talking engine in place of the model; ``build`` is its ``import_path``.

Workers must be able to import this module (``PYTHONPATH``).
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from cluster.engine.client import EngineClient
from cluster.replica.config import ReplicaConfig
from cluster.replica.deployment import Replica
from services.app import compose
from services.args import AppArgs
from tests.fakes.talking_engine import talking_engine


class TalkingReplica(Replica):
    """A replica that computes nothing."""

    @staticmethod
    def make_engine(config: ReplicaConfig) -> EngineClient:
        """See Replica."""
        return talking_engine(config.model_path)


def build(arguments: dict[str, Any]) -> Application:
    """See ``services.app.build``."""
    return compose(AppArgs.model_validate(arguments), TalkingReplica)
