"""The arguments of the Serve application, apart from the module that imports Ray."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

REPLICA = "Replica"  # names of the deployments
GATEWAY = "Gateway"
DISPATCHER = "Dispatcher"


class AppArgs(BaseModel):
    """Arguments of the application; every value is resolved (no ``auto``).

    Numbers of processes are not among them: Serve replaces every replica when an argument changes, so they are set per
    deployment in the Serve config.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_path: str
    model_name: str
    redis_url: str = Field(repr=False)  # may hold a password
    device: str
    dtype: str
    threads: int
    kv_cache_bytes: int | None
    max_num_seqs: int
    max_batched_tokens: int
    max_prefill_while_decoding: int
    max_waiting: int
    max_wait_s: float
    max_named_tenants: int
    history_ttl_s: int
    longest_turn_s: int
    drain_grace_s: int
    max_conversation_items: int = 10_000
    max_queued: int = 100_000
    dispatcher_slots: int = 64
    deterministic: bool = False
    engine_process: bool = False
    quantize: int = 0
    lora: str = ""
    prefix: str = ""
    generation: int = 0  # counts rolling restarts; another number replaces every replica
