"""The cluster as a backend: one unary Serve call per attempt, its tokens over the token channel.

The call carries routing, admission, cancellation and death; it is awaited in the background on a normal end, because
its answer arrives after the last frame.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from cluster.channel.listener import ChannelListener, Lost, Mailbox
from cluster.errors import ChannelError, ClusterError, NoReplicaError, OverloadedError
from cluster.protocol import Event, Finish, GenerateRequest, Label, Served, Tokens
from cluster.replica.forgetting import FORGET_S, decode_emptied, encode_labels, total
from cluster.replica.outcome import Done, Outcome, decode_outcome, to_error
from cluster.router.membership import MEMBERSHIP
from services.backend.answers import answers_by
from services.backend.avoidance import Avoidance
from services.backend.base import SOMEBODY, Erased
from services.backend.draining import DrainWatch
from services.backend.patience import TICK_S, Patience, Waits

if TYPE_CHECKING:
    from ray.serve._private.replica_result import ReplicaResult  # for its type alone; it is nobody's to make

DRAIN_CHECK_S = 0.5
LATE_FRAMES_S = 1.0


class _Ended:
    """The unary call's end, put into the attempt's mailbox so that one task sees everything in order."""

    def __init__(self, call: asyncio.Future[bytes]) -> None:
        self.call = call

    def outcome(self) -> Outcome | ClusterError:
        try:
            return decode_outcome(self.call.result())
        except asyncio.CancelledError:
            return ChannelError("the call to the replica was cancelled")
        except BackPressureError:
            return OverloadedError("Every replica's queue is full; try again shortly.", retry_after_s=2)
        except DeploymentUnavailableError:
            return NoReplicaError("No model replica can be started; see the cluster's status.", retry_after_s=30)
        except (RayError, RuntimeError) as error:
            return ChannelError(f"the replica was lost: {type(error).__name__}")


class RayBackend:
    """Generates on the replicas behind a Serve handle. One per process; ``start`` before use."""

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        *,
        name: str,
        secret: bytes,
        host: str,
        drain_grace_s: float,
        waits: Waits | None = None,
    ) -> None:
        self._handle = handle
        self._avoidance = Avoidance()
        self._listener = ChannelListener(name=name, secret=secret, on_silent=self._avoidance.suspect)
        self._host = host
        self._reply_to = ("", 0)
        self._waits = waits or Waits()
        self._draining = DrainWatch(drain_grace_s)
        self._tasks: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Open the port on which replicas deliver tokens."""
        self._reply_to = (self._host, await self._listener.start(self._host))
        self._own(asyncio.get_running_loop().create_task(self._watch_drains()))

    async def stop(self) -> None:
        """Close the port; attempts still running are aborted by their replicas."""
        for task in tuple(self._tasks):
            task.cancel()
        await self._listener.stop()

    async def _watch_drains(self) -> None:
        while True:
            await asyncio.sleep(DRAIN_CHECK_S)
            running, serving = MEMBERSHIP.incarnations(), self._listener.serving()
            for incarnation in self._draining.overdue(running=running, serving=serving):
                self._listener.give_up(incarnation, f"replica {incarnation} is being stopped")

    def _own(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See ``Backend.stream``. Budget: 15 µs per token beside the event loop's own."""
        request = msgspec.structs.replace(request, reply_to=self._reply_to)
        mailbox = self._listener.open(request.attempt, begin_at=len(request.output_ids))
        route = self._route(request)
        response = self._call(request, route)
        call = asyncio.ensure_future(_result(response))
        self._own(call)
        call.add_done_callback(lambda done: mailbox.put(_Ended(done)))
        call.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever reads it
        is_done = False
        try:
            yield await self._served(mailbox, route)
            while not is_done:
                event = await _next(mailbox)
                is_done = isinstance(event, Finish)
                yield event
        finally:
            mailbox.close()
            if not is_done:
                response.cancel()  # type: ignore[no-untyped-call] # Serve does not annotate it

    async def forget(self, labels: Sequence[Label]) -> Erased:
        """See ``Backend.forget``. Serve's broadcast waits in no queue: it goes to every replica that takes turns."""
        until = asyncio.get_running_loop().time() + FORGET_S
        try:
            async with asyncio.timeout_at(until):
                results = await self._broadcast("forget", encode_labels(labels))
        except DeploymentUnavailableError:
            return Erased(missed=MEMBERSHIP.incarnations())
        except TimeoutError:
            return Erased(missed=MEMBERSHIP.incarnations() or SOMEBODY)
        answers = await answers_by([_answer(result) for result in results], until)
        emptied = [decode_emptied(answer) for answer in answers]
        forgotten = total([one.forgotten for one in emptied])
        reached = frozenset(one.incarnation for one in emptied)
        missed = MEMBERSHIP.incarnations() - reached
        return Erased(forgotten.dropped, forgotten.held, reached=reached, missed=missed)

    async def _broadcast(self, method: str, payload: bytes) -> list[ReplicaResult]:
        """Call every replica; one result each, none of them awaited.

        The public way to the results loses all answers when one is late; this is where it takes them from.
        """
        response = self._handle.options(_by_reference=False).broadcast(method, payload)
        return await response._fetch_replica_results_async()  # noqa: SLF001

    def _route(self, request: GenerateRequest) -> dict[str, Any]:
        """What the router is asked; it writes what it decided into the same dictionary."""
        return {
            "pin_key": request.pin_key,
            "hint": request.hint.incarnation if request.hint else "",
            "avoid": list(request.avoid),
            "busy": list(request.busy),
            "suspects": self._avoidance.suspects(),
        }

    def _call(self, request: GenerateRequest, route: dict[str, Any]) -> DeploymentResponse[bytes]:
        handle = self._handle.options(session_id=request.pin_key, _by_reference=False)
        response = handle.generate.remote(msgspec.msgpack.encode(request), route=route)
        assert isinstance(response, DeploymentResponse)
        return response

    async def _served(self, mailbox: Mailbox, route: dict[str, Any]) -> Served:
        item = await self._first(mailbox, route)
        if isinstance(item, Served):
            return item
        error = _refusal(item) if isinstance(item, _Ended) else ChannelError("the replica was lost before it began")
        if isinstance(error, ChannelError):
            for chosen in route.get("order", ())[:1]:
                self._avoidance.suspect(chosen)
        raise error

    async def _first(self, mailbox: Mailbox, route: dict[str, Any]) -> object:
        patience = Patience(
            self._waits, lambda: route.get("order", ()), self._listener.silent_s, self._avoidance.suspect
        )
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    return await mailbox.get()
            if error := patience.tick():
                raise error


async def _result(response: DeploymentResponse[bytes]) -> bytes:
    data: bytes = await response
    return data


async def _answer(result: ReplicaResult) -> bytes:
    data: bytes = await result.get_async()  # type: ignore[no-untyped-call] # Serve does not annotate it
    return data


async def _next(mailbox: Mailbox) -> Tokens | Finish:
    item = await mailbox.get()
    if isinstance(item, _Ended):
        item = await _after_end(mailbox, item)
    if isinstance(item, Tokens | Finish):
        return item
    if isinstance(item, Lost):
        raise ChannelError(item.reason)
    raise ChannelError("the replica accepted the attempt twice")


async def _after_end(mailbox: Mailbox, ended: _Ended) -> object:
    """The call has ended first: its last frames may still be on their way, unless the replica is dead."""
    outcome = ended.outcome()
    if isinstance(outcome, ClusterError):
        raise outcome
    try:
        async with asyncio.timeout(LATE_FRAMES_S):
            return await mailbox.get()
    except TimeoutError as error:
        raise ChannelError("the replica ended the attempt, but its last tokens never came") from error


def _refusal(ended: _Ended) -> ClusterError:
    outcome = ended.outcome()
    if isinstance(outcome, ClusterError):
        return outcome
    if isinstance(outcome, Done):
        return ChannelError("the attempt ended before it was accepted")
    return to_error(outcome)
