"""What a process that runs turns needs to know to start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ProcessConfig:
    """Settings of one process.

    Attributes:
        model_path: checkpoint folder, for tokenizer and configuration; weights are not read here.
        model_name: the name clients ask for.
        redis_url: where conversations and keys live.
        history_ttl_s: how long an idle conversation is kept.
        longest_turn_s: a turn may take this long; the proxy waits as long.
        drain_grace_s: turns of a replica that is being stopped have this long before they go on elsewhere.
        max_conversation_items: a conversation takes no more items than this from its caller.
        max_queued: a tenant has no more turns than this in the queue.
        quantize: bits that replicas quantize the weights to; this and what follows only tells models apart here.
        lora: folder of the adapter that they apply; empty: none.
        prefix: folder of the prefix that they apply; empty: none.
    """

    model_path: str
    model_name: str
    redis_url: str = field(repr=False)  # may hold a password
    history_ttl_s: int
    longest_turn_s: int
    drain_grace_s: int
    max_conversation_items: int = 10_000
    max_queued: int = 100_000
    quantize: int = 0
    lora: str = ""
    prefix: str = ""
