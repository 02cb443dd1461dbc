"""SentencePiece with the nine specials, the chat template as ids, and incremental decoding. No torch.

``ChatGLM3Tokenizer`` here is the interface that users call; serving uses the smaller class it extends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.tokenizer.interface import ChatGLM3Tokenizer

__all__ = ["ChatGLM3Tokenizer"]


def __getattr__(name: str) -> Any:
    if name != "ChatGLM3Tokenizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cluster.tokenizer.interface import ChatGLM3Tokenizer  # noqa: PLC0415  # lazy, so that serving stays small

    return ChatGLM3Tokenizer
