"""Settings of a cluster: command-line options over environment variables (``CHATGLM_…``) over defaults, read once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.errors import ConfigurationError
from services.conversations.redis_url import parse_url
from services.ray_environment import LONGEST_TURN_S

ENV_PREFIX = "CHATGLM_"

RANDOM = Path("random")  # as --model: not a folder but a checkpoint with random weights, made when needed

_SECRET = ("redis_url",)  # may hold a password

DEFAULT_STATE_DIR = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "chatglm-cluster"


class ClusterSettings(BaseSettings):
    """Everything ``chatglm-cluster up`` can be told."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    model: Path | None = Field(None, description="checkpoint folder; none: the demo model; random: random weights")
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] | None = Field(
        None, description="what clients ask for; none: chatglm3-demo for the demo model, else chatglm3"
    )
    replicas: Annotated[int, Field(ge=1, le=1024)] = 2
    max_replicas: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="with it the number of replicas follows the load, from replicas up to this"
    )
    scale_up_delay_s: Annotated[float, Field(ge=0)] = 10
    scale_down_delay_s: Annotated[float, Field(ge=0)] = 600
    gateways: Annotated[int, Field(ge=1, le=1024)] = 1
    dispatchers: Annotated[int, Field(ge=1, le=1024)] = 1
    max_dispatchers: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="with it the number of dispatchers follows the queue, from dispatchers up to this"
    )
    dispatcher_slots: Annotated[int, Field(ge=1, le=4096)] = 64
    max_queued: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    redis_url: str | None = Field(None, repr=False, description="see services.conversations.redis_url")
    redis_appendfsync: Literal["everysec", "always"] = Field(
        "everysec", description="when the embedded server has its log written to disk; always: before each answer"
    )
    address: str = Field(
        "", description="a Ray cluster to join, host:port; empty: Ray is started here", validate_default=True
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    state_dir: Path = DEFAULT_STATE_DIR
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="KV pool per replica; none: on CPU two full contexts, at least 0.25; else the GPU's rest",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads per replica; 0: cores / replicas, one core less without the C step"
    )
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 64
    max_batched_tokens: Annotated[int, Field(ge=16, le=65536, validate_default=True)] = 512
    max_prefill_while_decoding: Annotated[int, Field(ge=1, le=65536)] = 256
    max_waiting: Annotated[int, Field(ge=1, le=65536)] = 256
    max_wait_s: Annotated[float, Field(gt=0, le=86400)] = 30
    max_named_tenants: Annotated[int, Field(ge=0, le=1000)] = 20
    deterministic: bool = Field(
        False, description="equal requests get equal answers to the last bit, whatever else runs; several times slower"
    )
    engine_process: bool | None = Field(
        None, description="a replica's engine in a process of its own; none: where steps are fast"
    )
    quantize: Literal[0, 4, 8] = Field(0, description="bits to quantize the weights to when loaded; 0: as stored")
    lora: Path | None = Field(None, description="folder of a LoRA adapter (PEFT) to apply")
    prefix: Path | None = Field(None, description="folder of a tuned prefix (P-Tuning v2) to apply")
    history_ttl_days: Annotated[float, Field(ge=0.001)] = 30  # at least a minute and a half
    max_conversation_items: Annotated[int, Field(ge=20, le=1_000_000)] = 10_000
    drain_grace_s: Annotated[int, Field(ge=0, le=LONGEST_TURN_S)] = 30

    @field_validator("redis_url")
    @classmethod
    def _understood(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_url(value)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("redis_appendfsync")
    @classmethod
    def _of_our_own(cls, value: str, info: ValidationInfo) -> str:
        if value == "always" and info.data.get("redis_url"):
            raise ValueError("is for the embedded server; set appendfsync in the configuration of yours")
        return value

    @field_validator("max_replicas", "max_dispatchers")
    @classmethod
    def _at_least_the_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        name = str(info.field_name).removeprefix("max_")
        if value is not None and value < (least := info.data.get(name, 1)):
            raise ValueError(f"must be at least --{name} ({least})")
        return value

    @property
    def most_replicas(self) -> int:
        """The largest number of replicas that there may be."""
        return self.max_replicas or self.replicas

    @property
    def most_dispatchers(self) -> int:
        """The largest number of dispatchers that there may be."""
        return self.max_dispatchers or self.dispatchers

    @field_validator("address")
    @classmethod
    def _reachable_store(cls, value: str, info: ValidationInfo) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit()):
            raise ValueError("must be host:port, as `ray start` prints it")
        url = info.data.get("redis_url")
        if value and (url is None or parse_url(url).socket):
            raise ValueError("needs --redis-url with a Redis or Valkey that every machine reaches")
        return value

    @field_validator("max_batched_tokens")
    @classmethod
    def _above_the_batch(cls, value: int, info: ValidationInfo) -> int:
        if value <= (rows := info.data.get("max_num_seqs", 0)):
            raise ValueError(f"must exceed --max-num-seqs ({rows}), or decodes leave no room for any prefill")
        return value

    @field_validator("quantize", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """The environment holds texts."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("state_dir", "model", "lora", "prefix")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value if value in (None, RANDOM) else value.expanduser().resolve()


def read_settings(**options: Any) -> ClusterSettings:
    """Settings from options (None: not given) and the environment.

    Raises:
        ConfigurationError: one sentence that names the first wrong setting, as an option and as a variable.
    """
    try:
        return ClusterSettings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        given = "" if name in _SECRET else f", got {first['input']!r}"
        raise ConfigurationError(
            f"--{name.replace('_', '-')} (or {ENV_PREFIX}{name.upper()}) is wrong: "
            f"{message[0].lower()}{message[1:].removesuffix('.')}{given}."
        ) from (None if name in _SECRET else error)
