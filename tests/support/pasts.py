"""What a turn has left in the cache, told from its answer alone."""

from __future__ import annotations

from openai.types.responses import Response


def fed_tokens(response: Response) -> int:
    """Tokens whose keys and values were computed: the last id that was sampled is never fed to the model.

    That one is the stop id of a completed answer, which is not counted, and the last one counted of a cut answer.
    """
    assert response.usage is not None
    assert response.status in ("completed", "incomplete")
    return response.usage.total_tokens - (response.status == "incomplete")
