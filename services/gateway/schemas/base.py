"""What all request bodies share: strictness, text unions, fields not offered yet.

Bodies are validated straight from JSON bytes, so strictness is JSON's: ``1`` is a float, ``"1"`` and ``true`` are not.
Tags of unions are written ``<so>``; ``body.param_of`` drops them from field names.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from services.turns.events import GenerationOptions

MAX_INT32 = 2**31 - 1
MAX_INT63 = 2**63 - 1


class RequestBody(BaseModel):
    """Strict about types, deaf to unknown fields, and never quotes its input in an error."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Shape(BaseModel):
    """Something the gateway answers; every field is written, null ones too."""

    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        """UTF-8 JSON."""
        return self.model_dump_json().encode()


def only(*allowed: object) -> AfterValidator:
    """Accept a field that OpenAI knows and we do not offer, as long as it asks for nothing: null or ``allowed``."""

    def check(value: object) -> object:
        if value is None or any(type(value) is type(default) and value == default for default in allowed):
            return value
        raise PydanticCustomError("unsupported", "This field is not supported yet; leave it out.")

    return AfterValidator(check)


def one_or_many(what: str) -> Discriminator:
    """Tell a string (``<one>``) from a list (``<many>``), so that an error names one field, not two branches."""

    def kind(value: Any) -> str | None:
        if isinstance(value, str):
            return "<one>"
        return "<many>" if isinstance(value, list) else None

    return Discriminator(
        kind, custom_error_type="string_or_list", custom_error_message=f"Input should be a string or a list of {what}"
    )


StopString = Annotated[str, Field(min_length=1, max_length=1024)]
Stop = Annotated[
    Annotated[StopString, Tag("<one>")] | Annotated[list[StopString], Field(max_length=4), Tag("<many>")],
    one_or_many("strings"),
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
MaxTokens = Annotated[int, Field(ge=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class SamplingFields(RequestBody):
    """How an answer is drawn. What is left out is ChatGLM3's own: temperature 0.8, top_p 0.8, top_k 50."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=MAX_INT63)] | None = None
    stop: Stop | None = None
    ignore_eos: bool | None = None

    def options(self, max_tokens: int | None) -> GenerationOptions:
        """The same, in the words of turns. A negative seed is folded into 63 bits."""
        return GenerationOptions(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=None if self.seed is None else self.seed & MAX_INT63,
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            ignore_eos=bool(self.ignore_eos),
        )
