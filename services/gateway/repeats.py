"""A query parameter that is given twice has no meaning: no proxy, client and server agree on which one counts."""

from __future__ import annotations

from collections import Counter
from typing import Final

from fastapi import Request

from cluster.errors import InvalidRequestError
from services.gateway.auth import CurrentTenant
from services.gateway.body import param_of

_LISTS: Final = {"include", "include[]"}


async def refuse_repeats(request: Request, _: CurrentTenant) -> None:
    """A dependency of routes; strangers are refused first.

    Raises:
        InvalidRequestError: a parameter that is no list is given more than once.
    """
    names = Counter(name for name, _ in request.query_params.multi_items())
    for name, times in names.items():
        if times > 1 and name not in _LISTS:
            param = param_of([name])
            raise InvalidRequestError(f"{param}: Give it once.", param=param)
