"""OpenAPI links: which value of an answer is which parameter of the next request, by the answer's operation."""

from __future__ import annotations

from typing import Any, Final

_ID: Final = "$response.body#/id"
_FIRST: Final = "$response.body#/first_id"
_ASKED: Final = "$request.path.conversation"


def _links(*operations: str, **parameters: str) -> dict[str, Any]:
    return {name: {"operationId": name, "parameters": parameters} for name in operations}


LINKS: Final[dict[str, dict[str, Any]]] = {
    "create_conversation": _links(
        "get_conversation",
        "update_conversation",
        "delete_conversation",
        "create_items",
        "list_items",
        "export_conversation",
        conversation=_ID,
    ),
    "create_items": _links("get_item", "delete_item", conversation=_ASKED, item=_FIRST),
    "list_items": _links("get_item", "delete_item", conversation=_ASKED, item=_FIRST),
    "create_response": _links("get_response", "cancel_response", "delete_response", "list_input_items", response=_ID),
}
