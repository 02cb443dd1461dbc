"""Who asks: the bearer key of a request → its tenant, or the operator.

It runs before the body is read, so a stranger cannot make the gateway parse anything.
"""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cluster.errors import InvalidKeyError
from services.gateway.deps import Deps, TenantLike
from services.gateway.summary import summary_of

_bearer = HTTPBearer(auto_error=False, description="An API key: `sk-…`")
_operator = HTTPBearer(
    auto_error=False, scheme_name="Operator", description="The operator's token, from the state folder."
)


async def current_tenant(
    request: Request,
    deps: Deps,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> TenantLike:
    """The request's tenant.

    Raises:
        InvalidKeyError: no, wrong, revoked or malformed key.
        StoreUnavailableError: the keys cannot be looked up now.
    """
    tenant = await deps.authenticator.authenticate(credentials.credentials if credentials else None)
    summary_of(request.scope).tenant = tenant.id
    return tenant


CurrentTenant = Annotated[TenantLike, Depends(current_tenant)]


def require_operator(
    deps: Deps, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_operator)]
) -> None:
    """Let the operator pass.

    Raises:
        InvalidKeyError: no token, or not the operator's.
    """
    given = credentials.credentials if credentials else ""
    if not hmac.compare_digest(given.encode(), deps.operator_token.encode()):
        raise InvalidKeyError(
            "This needs the operator's token; `chatglm-cluster status` takes it from the state folder of `up`."
        )
