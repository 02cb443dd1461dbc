"""``chatglm-cluster``, as a program, deploying another application in place of ours; the rest is what a user gets.

It is ``paced_app``, or what the environment names.

Ray reads its environment at import, so nothing that imports Ray may come before ``ray_environment.prepare``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from services import ray_environment
from services.cli import main

APPLICATION_VARIABLE = "CHATGLM_TEST_APPLICATION"
PACED = "tests.support.paced_app:build"


def then_deploy_paced(prepare: Callable[..., None]) -> Callable[..., None]:
    """``prepare``, and behind it the change to what is deployed."""

    def prepared(*args: Any) -> None:
        prepare(*args)
        from services import launcher

        launcher.serve_config = paced(launcher.serve_config)

    return prepared


def paced(serve_config: Callable[..., Any]) -> Callable[..., Any]:
    """``serve_config`` with our application."""

    def config_of(*args: Any, **options: Any) -> Any:
        config = serve_config(*args, **options)
        config.applications[0].import_path = os.environ.get(APPLICATION_VARIABLE, PACED)
        return config

    return config_of


if __name__ == "__main__":
    ray_environment.prepare = then_deploy_paced(ray_environment.prepare)
    main()
