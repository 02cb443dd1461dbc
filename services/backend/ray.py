"""The cluster as a backend: one unary Serve call per attempt, its tokens over the token channel.

The call carries routing, admission, cancellation and death; it is awaited in the background on a normal end, because
its answer arrives after the last frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from cluster.channel.listener import ChannelListener, Lost, Mailbox
from cluster.errors import ChannelError, ClusterError, NoReplicaError, OverloadedError
from cluster.protocol import Event, Finish, GenerateRequest, Served, Tokens
from cluster.replica.outcome import Done, Outcome, decode_outcome, to_error

ACCEPT_TIMEOUT_S = 10.0
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
        accept_timeout_s: float = ACCEPT_TIMEOUT_S,
    ) -> None:
        self._handle = handle
        self._listener = ChannelListener(name=name, secret=secret)
        self._host = host
        self._reply_to = ("", 0)
        self._accept_timeout_s = accept_timeout_s
        self._calls: set[asyncio.Future[bytes]] = set()

    async def start(self) -> None:
        """Open the port on which replicas deliver tokens."""
        self._reply_to = (self._host, await self._listener.start(self._host))

    async def stop(self) -> None:
        """Close the port; attempts still running are aborted by their replicas."""
        await self._listener.stop()

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """See ``Backend.stream``. Budget: 15 µs per token beside the event loop's own."""
        request = msgspec.structs.replace(request, reply_to=self._reply_to)
        mailbox = self._listener.open(request.attempt, begin_at=len(request.output_ids))
        response = self._call(request)
        call = asyncio.ensure_future(_result(response))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(lambda done: mailbox.put(_Ended(done)))
        call.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever reads it
        is_done = False
        try:
            yield await self._served(mailbox)
            while not is_done:
                event = await _next(mailbox)
                is_done = isinstance(event, Finish)
                yield event
        finally:
            mailbox.close()
            if not is_done:
                response.cancel()  # type: ignore[no-untyped-call] # Serve does not annotate it

    def _call(self, request: GenerateRequest) -> DeploymentResponse[bytes]:
        route = {
            "pin_key": request.pin_key,
            "hint": request.hint.incarnation if request.hint else "",
            "avoid": list(request.avoid),
        }
        handle = self._handle.options(session_id=request.pin_key, _by_reference=False)
        response = handle.generate.remote(msgspec.msgpack.encode(request), route=route)
        assert isinstance(response, DeploymentResponse)
        return response

    async def _served(self, mailbox: Mailbox) -> Served:
        try:
            async with asyncio.timeout(self._accept_timeout_s):
                item = await mailbox.get()
        except TimeoutError as error:
            raise NoReplicaError("No model replica took the turn in time.", retry_after_s=5) from error
        if isinstance(item, Served):
            return item
        if isinstance(item, _Ended):
            raise _refusal(item)
        raise ChannelError(f"the replica was lost before it began: {getattr(item, 'reason', item)}")


async def _result(response: DeploymentResponse[bytes]) -> bytes:
    data: bytes = await response
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
