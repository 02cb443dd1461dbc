"""One replica's turns: engine on one side, token channel on the other. Knows nothing of Ray.

The unary call of a turn stays open until its generation ends, so that Serve counts, drains and cancels it; its tokens
travel on the channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cluster.channel.dialer import ChannelDialer
from cluster.engine.client import EngineClient, StepOutput
from cluster.errors import ChannelError, ClusterError
from cluster.protocol import Finish, Forgotten, GenerateRequest, Label, Served
from cluster.replica.forgetting import FORGET_S, total
from cluster.replica.outcome import Done, Outcome, refusal

STALL_CHECK_S = 0.5


class ReplicaTurns:
    """Runs attempts on an engine and sends their tokens to their owners.

    While the engine hangs in a step, the links are closed and new attempts refused: the owners go on elsewhere, long
    before a health check has this replica replaced.
    """

    def __init__(self, engine: EngineClient, *, incarnation: str, secret: bytes) -> None:
        self._engine = engine
        self._incarnation = incarnation
        self._channels = ChannelDialer(name=incarnation, secret=secret, abort=self._abort)
        self._ends: dict[int, asyncio.Future[Finish]] = {}
        self._aborts: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self.aborts = 0  # attempts ended early, for whatever reason

    async def start(self) -> None:
        """Start the engine; raises what it raises."""
        await self._engine.start(self._deliver)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Stop the engine and close the channels."""
        if self._watching is not None:
            self._watching.cancel()
        await self._engine.stop()
        await self._channels.close()

    async def generate(self, request: GenerateRequest, *, rank: int, why: str) -> Outcome:
        """Run one attempt to its end.

        Args:
            request: the attempt; its ``reply_to`` is dialled before anything is computed.
            rank: this replica's current rank.
            why: why the router chose this replica.
        """
        attempt = request.attempt
        served = Served(rank=rank, incarnation=self._incarnation, why=why)
        end = self._ends[attempt] = asyncio.get_running_loop().create_future()
        try:
            self._require_life()
            link = await self._channels.link(request.reply_to)
            self._channels.claim(link, attempt, served)
            await self._engine.submit(request)
            self._channels.accept(attempt)
            return Done(await end)
        except ClusterError as error:
            return refusal(error, self._incarnation)
        except asyncio.CancelledError:
            self._abort(attempt)
            raise
        finally:
            self._ends.pop(attempt, None)
            self._channels.forget(attempt)

    async def forget(self, labels: Sequence[Label]) -> Forgotten:
        """Free the KV pages of all labels.

        Raises:
            NoReplicaError: the engine has died.
            TimeoutError: the engine hangs in a step. It forgets them behind it.
        """
        async with asyncio.timeout(FORGET_S):
            return total(await asyncio.gather(*[self._engine.forget(label) for label in labels]))

    def _require_life(self) -> None:
        if self._engine.is_stalled():
            raise ChannelError(f"engine_stalled for {self._engine.stalled_for_s():.0f} s")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(STALL_CHECK_S)
            if self._engine.is_stalled():
                self._channels.cut()

    def _deliver(self, outputs: Sequence[StepOutput]) -> None:
        self._channels.send_step(outputs)
        for attempt, output in outputs:
            if isinstance(output, Finish):
                end = self._ends.get(attempt)
                if end is not None and not end.done():
                    end.set_result(output)

    def _abort(self, attempt: int) -> None:
        self.aborts += 1
        task = asyncio.get_running_loop().create_task(self._engine.abort(attempt))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
