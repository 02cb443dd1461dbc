"""What the OpenAPI document promises; that the gateway keeps to it is ``test_http_contract``'s."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from pydantic import BaseModel

from cluster.errors import ClusterError, TurnError
from services.gateway import answers
from services.gateway.problems import status_of
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.conversations import ConversationRequest
from services.gateway.schemas.responses import ResponseRequest
from tests.support.gateway import MODEL

OPERATIONS = {
    *("create_chat_completion", "create_response", "get_response", "delete_response", "cancel_response"),
    *("list_input_items", "create_conversation", "get_conversation", "update_conversation", "delete_conversation"),
    *("list_items", "create_items", "get_item", "delete_item", "export_conversation", "list_models", "get_model"),
    *("healthz", "readyz", "metrics", "status", "scale", "restart"),
}


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All operations by their ids."""
    return {each["operationId"]: each for path in document["paths"].values() for each in path.values()}


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object in the document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def test_the_document_is_openapi(document: dict[str, Any]) -> None:
    """Of version 3.1, with references that all lead somewhere."""
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()
    for node in nodes(document):
        if isinstance(reference := node.get("$ref"), str):
            _, components, kind, name = reference.split("/")
            assert (components, name in document["components"][kind]) == ("components", True)


def test_names_read_well(document: dict[str, Any]) -> None:
    """Operations are named as what they do, and no shape by its module."""
    assert set(operations(document)) == OPERATIONS
    assert all(name.isalnum() for name in document["components"]["schemas"])


def test_every_answer_tells_its_reasons(document: dict[str, Any]) -> None:
    """Errors have OpenAI's body, the codes that the status may stand for, and the headers that go with it."""
    for operation in operations(document).values():
        for status, answer in operation["responses"].items():
            assert "x-request-id" in answer["headers"]
            if status == "200" or "not be served" in answer["description"]:
                continue
            (media, content), *others = answer["content"].items()
            assert (media, content["schema"]["$ref"], others) == (
                "application/json", "#/components/schemas/ErrorBody", [],
            )  # fmt: skip
            assert answer["description"].startswith("- `")
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"})
            assert ("WWW-Authenticate" in answer["headers"]) == (status == "401")


def test_every_operation_tells_who_may_ask_and_what_may_fail(document: dict[str, Any]) -> None:
    """A key where there is a 401, the refusals of bodies where there is one, those of ids where there is one."""
    for operation in operations(document).values():
        statuses = set(operation["responses"])
        assert "500" in statuses
        assert "422" not in statuses
        assert ("401" in statuses) == bool(operation.get("security"))
        assert ("requestBody" in operation) == ({"413", "415"} <= statuses)
        in_path = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        assert not in_path or "404" in statuses


def test_every_error_of_a_group_is_filed_under_its_status(document: dict[str, Any]) -> None:
    """By its code, where a turn is asked for."""
    told = operations(document)["create_response"]["responses"]
    for error in (ClusterError, TurnError, *answers.KEY, *answers.BODY, *answers.CHAT, *answers.STORED):
        assert f"`{error.code}`: " in told[str(status_of(error))]["description"]


def test_headers_and_queries_are_described(document: dict[str, Any]) -> None:
    """With their patterns and bounds, and never as null, which no query can be."""
    parameters = [each for one in operations(document).values() for each in one.get("parameters", ())]
    assert {"Idempotency-Key", "Last-Event-ID", "limit", "after", "stream"} <= {each["name"] for each in parameters}
    for each in parameters:
        schema = each["schema"]
        assert "anyOf" not in schema
        assert schema["type"] in {"string", "integer", "boolean", "array"}
        if each["in"] in {"path", "header"}:
            assert schema.keys() & {"pattern", "enum"}
        if schema["type"] == "integer":
            assert {"minimum", "maximum"} <= schema.keys()


def test_the_served_models_are_named(document: dict[str, Any]) -> None:
    """Wherever a model is asked for, and in the examples."""
    schemas = document["components"]["schemas"]
    for body in ("ChatCompletionRequest", "ResponseRequest"):
        assert schemas[body]["properties"]["model"] == {"type": "string", "enum": [MODEL]}
    (parameter,) = operations(document)["get_model"]["parameters"]
    assert parameter["schema"]["enum"] == [MODEL]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("create_chat_completion", ChatCompletionRequest),
        ("create_response", ResponseRequest),
        ("create_conversation", ConversationRequest),
    ],
)
def test_examples_are_requests(document: dict[str, Any], name: str, shape: type[BaseModel]) -> None:
    """They can be sent as they stand."""
    example = operations(document)[name]["requestBody"]["content"]["application/json"]["example"]
    assert shape.model_validate(example)


def test_links_lead_to_parameters(document: dict[str, Any]) -> None:
    """Each names an operation and parameters that it has."""
    known = operations(document)
    links = [link for one in known.values() for link in one["responses"]["200"].get("links", {}).values()]
    assert len(links) > 10
    for link in links:
        names = {each["name"] for each in known[link["operationId"]]["parameters"]}
        assert link["parameters"].keys() <= names
