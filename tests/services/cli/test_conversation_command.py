"""`chatglm-cluster conversation`, over a real Valkey server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.protocol import Label
from services.conversations import ids
from services.conversations.erasures import Erasure
from services.conversations.keys import ERASURES
from services.conversations.records import Item, TurnState
from services.conversations.redis_link import RedisLink
from services.conversations.redis_store import RedisConversationStore
from services.queue.due import RedisDueIndex
from services.queue.keys import BACKGROUND
from services.queue.redis_queue import RedisQueue
from services.turns.pin import conversation_key
from tests.support.turns import a_begin
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.valkey

Run = Callable[..., tuple[int, str, str]]
TEXTS = ["一", "two\u2028", "three"]


@pytest.fixture
def run(cli: Run) -> Run:
    """Call ``conversation``; its status, what it printed, and its errors."""

    def call(*args: str) -> tuple[int, str, str]:
        status, told, errors = cli("conversation", *args)
        return status, told, errors.strip()

    return call


@pytest.fixture
def name(server: ValkeyServer) -> str:
    """A conversation of tenant acme."""

    async def make() -> str:
        store = RedisConversationStore(server.url)
        made = await store.create("acme", metadata={}, items=[Item(id="", role="user", text=text) for text in TEXTS])
        await store.close()
        return made.id

    return asyncio.run(make())


def test_an_export_is_printed(run: Run, name: str) -> None:
    """As the HTTP route gives it, and nothing else on stdout."""
    status, told, _ = run("export", name, "--tenant", "acme")
    head, *items = [json.loads(line) for line in told.splitlines()]
    assert (status, head["id"], [item["text"] for item in items]) == (0, name, TEXTS)


def test_an_export_goes_to_a_file_of_its_owners(run: Run, name: str, tmp_path: Path) -> None:
    """It takes the place of what was there, and nothing else is left in the folder."""
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    assert run("export", name, "--tenant", "acme", "-o", str(path)) == (0, "", "")
    assert len(path.read_text().splitlines()) == 4
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_export_leaves_the_file_as_it_was(run: Run, name: str, tmp_path: Path) -> None:
    """Half an export is never taken for one."""
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    assert run("export", name, "--tenant", "other", "-o", str(path))[0] == 2
    assert ([path], "old") == (list(tmp_path.iterdir()), path.read_text())


def test_a_folder_that_is_not_there_is_one_sentence(run: Run, name: str, tmp_path: Path) -> None:
    """It names the option."""
    path = tmp_path / "none" / "a.jsonl"
    said = f"--output {path} cannot be written: No such file or directory."
    assert run("export", name, "--tenant", "acme", "-o", str(path)) == (2, "", said)


def test_a_deleted_conversation_is_gone(run: Run, name: str) -> None:
    """And said to be; a second deletion finds nothing."""
    said = f"Conversation {name} of tenant acme is erased.\nRunning replicas drop its KV pages within seconds.\n"
    assert run("delete", name, "--tenant", "acme") == (0, said, "")
    unknown = f"No conversation {name!r} was found."
    assert run("delete", name, "--tenant", "acme") == (2, "", unknown)
    assert run("export", name, "--tenant", "acme") == (2, "", unknown)


def test_gateways_find_what_replicas_are_to_be_told(run: Run, server: ValkeyServer, name: str) -> None:
    """The command reaches no replica; what it found nothing to erase of is not told."""
    assert run("delete", ids.new_conversation(), "--tenant", "acme")[0] == 2
    assert run("delete", name, "--tenant", "acme")[0] == 0

    with server.client() as client:
        (member,), (now_s, _) = client.zrange(ERASURES, 0, -1), client.time()
    erasure = Erasure.parse(member.decode())
    assert erasure.label == Label(tenant="acme", pin_key=conversation_key("acme", ids.conversation_root(name)))
    assert now_s - 60 < erasure.erased_ms // 1000 <= now_s


def test_nothing_points_to_turns_of_a_deleted_conversation(run: Run, server: ValkeyServer, name: str) -> None:
    """A turn that waited is neither queued nor due."""
    turn = ids.new_response(name)

    async def wait() -> None:
        link = RedisLink(server.url)
        await RedisConversationStore(link).begin(a_begin(turn, state=TurnState.QUEUED))
        await RedisQueue(link, BACKGROUND).publish("acme", turn)
        await RedisDueIndex(link).add("acme", turn, in_s=60)
        await link.close()

    asyncio.run(wait())
    assert run("delete", name, "--tenant", "acme")[0] == 0
    with server.client() as client:
        left = sorted(key.decode() for key in client.scan_iter())
    assert [key.rpartition(":")[2] for key in left] == ["erasures", "gone"]


@pytest.mark.parametrize("command", ["export", "delete"])
def test_what_is_not_there_is_one_sentence(run: Run, name: str, command: str) -> None:
    """Another tenant's conversation, and an id of nothing; a tenant's name that cannot be is told as such."""
    assert run(command, name, "--tenant", "other") == (2, "", f"No conversation {name!r} was found.")
    assert run(command, "conv_x", "--tenant", "acme") == (2, "", "No conversation 'conv_x' was found.")
    assert run(command, name, "--tenant", "A}") == (2, "", "A tenant id is 1 to 32 of a-z, 0-9 and '-'.")
