"""ChatGLM3's configuration, module and checkpoint loader. The only place besides the runner that holds tensors.

``ChatGLM3ForConditionalGeneration`` is the library shell; importing this package alone does not import transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.model.generation.model import ChatGLM3ForConditionalGeneration

__all__ = ["ChatGLM3ForConditionalGeneration"]


def __getattr__(name: str) -> Any:
    if name != "ChatGLM3ForConditionalGeneration":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cluster.model.generation.model import ChatGLM3ForConditionalGeneration  # noqa: PLC0415  # see the docstring

    return ChatGLM3ForConditionalGeneration
