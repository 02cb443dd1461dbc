"""The application with a paced engine in place of the model; ``build`` is its ``import_path``.

Workers must be able to import this module (``PYTHONPATH``) and find the engine's log in the environment.
"""

from __future__ import annotations

from typing import Any

from ray.serve import Application

from cluster.engine.client import EngineClient
from cluster.replica.config import ReplicaConfig
from cluster.replica.deployment import Replica
from services.app import compose
from services.args import AppArgs
from tests.fakes.paced_engine import paced_engine


class PacedReplica(Replica):
    """A replica that computes nothing."""

    @staticmethod
    def make_engine(config: ReplicaConfig) -> EngineClient:
        """See Replica."""
        return paced_engine(config.model_path)


def build(arguments: dict[str, Any]) -> Application:
    """See ``services.app.build``."""
    return compose(AppArgs.model_validate(arguments), PacedReplica)
