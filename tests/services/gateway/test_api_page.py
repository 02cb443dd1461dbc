"""docs/api.md says what the code does: routes, fields with their bounds, errors; its examples are ``test_api_examples``'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from cluster.errors import ChannelError, CheckpointError, ClusterError, ConfigurationError, ToolCallError
from services.conversations.keys import HISTORY_TTL_S, IDEMPOTENCY_TTL_S, MAX_ITEMS
from services.gateway.deps import GatewayLimits
from services.gateway.problems import status_of
from services.gateway.schemas.base import Only
from services.gateway.schemas.changes import ScaleRequest
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.conversations import ConversationRequest, PageQuery
from services.gateway.schemas.params import MAX_KEY
from services.gateway.schemas.responses import ResponseRequest, RetrieveQuery
from services.gateway.schemas.sampling import SamplingFields
from services.queue.base import MAX_QUEUED
from services.ray_environment import LONGEST_TURN_S
from services.settings import ClusterSettings
from services.tenants.share import BOUNDS as BOUNDS_OF_TENANTS
from services.turns.settings import TurnSettings
from tests.support.pages import Page, names_in

PAGE = Page("docs/api.md")
DRAWN = "## How an answer is drawn"
ITEMS = "## Conversations and their items"
NEVER_TOLD = {ToolCallError, ChannelError}  # the text is the answer then; a turn moves, or ends as ``turn_failed``
NEVER_TOLD |= {CheckpointError, ConfigurationError}  # come before anything serves
HUGE = 2**31 - 1
BOUNDS = ("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "maxProperties")


def documented(app: FastAPI) -> set[str]:
    """Every method and path."""
    paths = app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def errors_of(cls: type[ClusterError]) -> Iterator[type[ClusterError]]:
    """The class and all under it, but those that HTTP never tells."""
    if cls not in NEVER_TOLD:
        yield cls
        for child in cls.__subclasses__():
            yield from errors_of(child)


def fields_of(shape: type[BaseModel], *, is_offered: bool) -> set[str]:
    """Names of fields as callers write them."""
    return {
        field.alias or name
        for name, field in shape.model_fields.items()
        if is_offered is not any(isinstance(one, Only) for one in field.metadata)
    }


def told(*headings: str) -> dict[str, str]:
    """Each name of the first cells under these headings, with its row's other cells."""
    return {name: " ".join(cells) for each in headings for first, *cells in PAGE.rows(each) for name in names_in(first)}


def test_every_route_is_listed(app: FastAPI) -> None:
    """And none that there is not."""
    listed = {route for first, _ in PAGE.rows("## Routes") for route in names_in(first)}
    assert listed == documented(app)


def test_every_error_has_its_row() -> None:
    """With its status; a new class fails here until it is written about."""
    rows = {names_in(code)[0]: int(status) for code, status, *_ in PAGE.rows("## Errors")}
    assert rows == {error.code: status_of(error) for error in errors_of(ClusterError)}


@pytest.mark.parametrize(
    ("shape", "headings"),
    [
        (ChatCompletionRequest, ["## Chat completions", DRAWN]),
        (ResponseRequest, ["## Responses", DRAWN]),
        (ConversationRequest, [ITEMS]),
        (RetrieveQuery, ["## Streams"]),
        (PageQuery, [ITEMS]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_field_has_its_row_and_its_bounds(shape: type[BaseModel], headings: list[str]) -> None:
    """The numbers that bound it stand there; no row names a field that there is not."""
    rows = told(*headings)
    for name in fields_of(shape, is_offered=True):
        assert name in rows, name
        if name == "model":  # what is served bounds it
            continue
        for bound in bounds_of(shape.model_json_schema()["properties"][name]):
            assert bound in rows[name], (name, bound)
    known = set(shape.model_fields) | {field.alias for field in shape.model_fields.values()}
    if shape in {ChatCompletionRequest, ResponseRequest}:
        assert {name for heading in headings for name in in_tables_of_fields(heading)} <= known


def in_tables_of_fields(heading: str) -> set[str]:
    """Names in the first cells of tables with three columns."""
    return {name for first, *rest in PAGE.rows(heading) if len(rest) == 2 for name in names_in(first)}


def bounds_of(schema: dict[str, Any]) -> set[str]:
    """Numbers, as the page writes them. 0 and 1 at the low end are the words' business."""
    branches = [schema, *schema.get("anyOf", ()), *schema.get("oneOf", ())]
    found = {(bound, branch[bound]) for branch in branches for bound in BOUNDS if bound in branch}
    return {f"{number:g}" if number < 1000 else f"{number:,}" for bound, number in found if is_written(bound, number)}


def is_written(bound: str, number: float) -> bool:
    return abs(number) < HUGE and not (bound.startswith("min") and number in {0, 1})


@pytest.mark.parametrize(
    ("shape", "heading"), [(ChatCompletionRequest, "## Chat completions"), (ResponseRequest, "## Responses")]
)
def test_every_refused_field_is_named(shape: type[BaseModel], heading: str) -> None:
    """In the paragraph about them, and nowhere in a table."""
    _, _, paragraph = PAGE.section(heading).partition("Not offered")
    assert set(names_in(paragraph.split("\n\n")[0])) == fields_of(shape, is_offered=False)


def test_defaults_of_sampling_are_stated() -> None:
    """ChatGLM3's own."""
    rows = told(DRAWN)
    assert rows.keys() >= fields_of(SamplingFields, is_offered=True)
    assert [name for name, row in rows.items() if "default" in row] == ["temperature", "top_p", "top_k", "ignore_eos"]


def test_limits_are_those_of_the_code() -> None:
    """Each is written as it is set."""
    settings, limits = TurnSettings(), PAGE.section("## Limits")
    for stated in (
        f"| {GatewayLimits().max_body_bytes // 2**20} MiB |",
        f"| {MAX_ITEMS:,} (`--max-conversation-items`) |",
        f"| kept for {HISTORY_TTL_S // 86_400} days (`--history-ttl-days`) |",
        f"| {MAX_KEY} characters, {IDEMPOTENCY_TTL_S // 3600} hours |",
        f"| {LONGEST_TURN_S // 60} minutes |",
        f"| {MAX_QUEUED:,} in the queue, each for up to {settings.waiting_s / 3600:g} hours |",
        f"| a stored turn without its client | {settings.resume_s:g} seconds |",
        f"| {ClusterSettings.model_fields['max_waiting'].default} (`--max-waiting`), then 429 |",
    ):
        assert stated in limits
    lease = f"within about {settings.journal.lease_s:g} seconds"
    assert lease in PAGE.section("## Stored turns")
    assert f"after {GatewayLimits().keep_alive_s:g} silent seconds" in PAGE.section("## Streams")


@pytest.mark.parametrize("part", ["history_ttl_days", "resume_s", "max_queued"])
def test_limits_of_a_tenants_own_are_told(part: str) -> None:
    """With the option that sets them, and their bounds behind it."""
    _, _, paragraph = PAGE.section("## Limits").partition("`chatglm-cluster tenant set`")
    _, _, behind = paragraph.partition(f"`--{part.replace('_', '-')}`")
    least, most = BOUNDS_OF_TENANTS[part]
    assert behind.partition("(")[2].startswith(f"{least:g} to {most:,})")


def test_operators_fields_are_named() -> None:
    """With their bounds."""
    section = PAGE.section("## For operators")
    assert ScaleRequest.model_fields.keys() <= set(names_in(section))
    assert "1 to 1,024 each" in section
