"""The C step over a small random model; tests that need it are skipped where this CPU lacks its instructions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cluster.engine.native import library
from cluster.engine.native.runner import NativeRunner
from cluster.model.config import ChatGLM3Config
from tests.support.random_model import SHAPE, random_model


def require_native() -> None:
    """Skip the test unless the C step runs here. That it was built is a test of its own."""
    if library.load() is None:
        pytest.skip("this CPU has no AVX-512 for bfloat16, which the C step is written in")


def native_runner(shape: ChatGLM3Config = SHAPE, *, threads: int = 2, **options: Any) -> NativeRunner:
    """A runner over ``random_model``."""
    require_native()
    return NativeRunner(random_model(torch.bfloat16, shape), threads=threads, **options)
