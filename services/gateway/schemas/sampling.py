"""How an answer is drawn: the fields that both kinds of answer have in common.

OpenAI's own, and vLLM's extras under vLLM's names. Ranges are checked here; what depends on the tokenizer or on the
room left in the context is checked where the turn is made ready.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from cluster.errors import InvalidRequestError
from cluster.protocol import Structure
from services.gateway.schemas.base import MAX_INT32, MAX_INT63, RequestBody, Stop, only
from services.gateway.schemas.structure import StructuredOutputs
from services.turns.events import GenerationOptions

MAX_LOGIT_BIASES = 1024
MAX_BAD_WORDS = 256
MAX_STOP_TOKENS = 256

TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TopLogprobs = Annotated[int, Field(ge=0, le=20)]
BadWord = Annotated[str, Field(min_length=1, max_length=64)]  # encoded in the loop


class SamplingFields(RequestBody):
    """What is left out is ChatGLM3's own: temperature 0.8, top_p 0.8, top_k 50; the rest is off."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=MAX_LOGIT_BIASES)] | None = None
    bad_words: Annotated[list[BadWord], Field(max_length=MAX_BAD_WORDS)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_INT63)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    structured_outputs: StructuredOutputs | None = None

    best_of: Annotated[Any, only(1)] = None
    use_beam_search: Annotated[Any, only(False)] = None
    guided_json: Annotated[Any, only()] = None
    guided_regex: Annotated[Any, only()] = None
    guided_choice: Annotated[Any, only()] = None
    guided_grammar: Annotated[Any, only()] = None

    def options(
        self, max_tokens: int | None, *, logprobs: int | None = None, structure: Structure | None = None
    ) -> GenerationOptions:
        """The same, in the words of turns. A negative seed is folded into 63 bits.

        Args:
            max_tokens: of the answer.
            logprobs: how many of the best to report beside each drawn token.
            structure: the shape that the request's own field for it asks for.

        Raises:
            InvalidRequestError: two shapes are asked for.
        """
        return GenerationOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=None if self.seed is None else self.seed & MAX_INT63,
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(key): bias for key, bias in (self.logit_bias or {}).items()},
            bad_words=tuple(self.bad_words or ()),
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            structure=self._one_structure(structure),
        )

    def _one_structure(self, structure: Structure | None) -> Structure | None:
        if self.structured_outputs is None:
            return structure
        if structure is not None:
            message = "structured_outputs: The request asks for a format already; leave one of them out."
            raise InvalidRequestError(message, param="structured_outputs")
        return self.structured_outputs.structure()


def refuse_tools(structure: Structure | None, param: str) -> None:
    """A call is no answer of that structure, so the model could not make one.

    Raises:
        InvalidRequestError: there is a structure; ``param`` is the field that asks for it.
    """
    if structure is not None:
        message = f"{param}: A format cannot be had together with tools; set tool_choice to 'none', or leave tools out."
        raise InvalidRequestError(message, param=param)
