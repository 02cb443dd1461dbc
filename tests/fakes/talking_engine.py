"""An engine that computes nothing, yet answers each prompt in words of its own, at a steady pace.

An answer is a function of prompt and seed, as a model's is, so a turn that goes on elsewhere goes on alike, a turn with
another history says something else, and two turns never say the same. A model is not exact in its last bits, though:
some attempts that go on with an answer *waver* and say something else from there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.engine.client import EngineClient, EngineStats, Sink, StepOutput
from cluster.protocol import Finish, FinishReason, Forgotten, GenerateRequest, Label, Tokens, Usage
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer
from tests.fakes.paced_engine import visible_ids

STEPS_PER_S = 8.0
SHORTEST, LONGEST = 24, 64  # ids of an answer that no limit cuts
WAVERS = 3  # one of so many attempts that go on with an answer


def answer_to(request: GenerateRequest, vocabulary: Sequence[int], *, wavers: int) -> list[int]:
    """All ids of the answer, those that the request brings included; at most as many as it allows.

    ``wavers``: one of so many attempts that go on wavers; 0: none.
    """
    held = list(request.output_ids)
    told = _digest(b"".join(i.to_bytes(4, "little") for i in request.prompt_ids), request.sampling.seed)
    length = max(SHORTEST + told[0] % (LONGEST - SHORTEST), len(held))
    is_unsure = bool(held and wavers) and request.attempt % wavers == 0
    salt = request.attempt if is_unsure else 0
    drawn = [_digest(told, salt + place)[0] for place in range(length)]
    answer = held + [vocabulary[number % len(vocabulary)] for number in drawn[len(held) :]]
    return answer[: request.sampling.max_new_tokens]


def _digest(data: bytes, salt: int) -> bytes:
    return hashlib.blake2b(data, digest_size=8, salt=salt.to_bytes(16, "little")).digest()


@dataclass(slots=True)
class _Row:
    request: GenerateRequest
    answer: list[int]
    told: int


@dataclass
class TalkingEngine(EngineClient):
    """``EngineClient`` with one id a row and step, on the loop of its caller.

    Attributes:
        vocabulary: ids that are text, each by itself.
        steps_per_s: the pace.
        wavers: one of so many attempts that go on with an answer; 0: none.
    """

    vocabulary: Sequence[int]
    steps_per_s: float = STEPS_PER_S
    wavers: int = WAVERS
    _rows: dict[int, _Row] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    async def start(self, sink: Sink) -> None:
        """Begin to step."""
        self._task = asyncio.create_task(self._run(sink), name="talking-engine")

    async def submit(self, request: GenerateRequest) -> None:
        """Give the request a row from the next step on."""
        answer = answer_to(request, self.vocabulary, wavers=self.wavers)
        self._rows[request.attempt] = _Row(request, answer, len(request.output_ids))

    async def abort(self, attempt: int) -> None:
        """Take the row away without a word."""
        self._rows.pop(attempt, None)

    async def forget(self, label: Label) -> Forgotten:
        """It keeps nothing."""
        del label
        return Forgotten()

    def stats(self) -> EngineStats:
        """Rows only."""
        return EngineStats(running=len(self._rows))

    def is_stalled(self) -> bool:
        """Never."""
        return False

    def stalled_for_s(self) -> float:
        """Its steps take no time."""
        return 0.0

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self, sink: Sink) -> None:
        while True:
            await asyncio.sleep(1 / self.steps_per_s)
            outputs = [output for attempt in list(self._rows) for output in self._step(attempt)]
            if outputs:
                sink(outputs)

    def _step(self, attempt: int) -> list[StepOutput]:
        row = self._rows[attempt]
        outputs: list[StepOutput] = []
        if row.told < len(row.answer):
            cached_tokens = 0 if row.told == len(row.request.output_ids) else None
            ids = row.answer[row.told : row.told + 1]
            outputs.append((attempt, Tokens(start=row.told, ids=ids, cached_tokens=cached_tokens)))
            row.told += 1
        if row.told == len(row.answer):
            outputs.append((attempt, _finish(row)))
            del self._rows[attempt]
        return outputs


def _finish(row: _Row) -> Finish:
    is_cut = row.told == row.request.sampling.max_new_tokens
    usage = Usage(prompt_tokens=len(row.request.prompt_ids), cached_tokens=0, output_tokens=row.told)
    return Finish(reason=FinishReason.LENGTH if is_cut else FinishReason.STOP, total=row.told, usage=usage)


def talking_engine(model_path: str) -> TalkingEngine:
    """The engine over the tokenizer of a checkpoint."""
    return TalkingEngine(visible_ids(ChatGLM3Tokenizer.from_pretrained(model_path)))
