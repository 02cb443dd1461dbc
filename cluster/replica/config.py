"""What a replica needs to know to start. Read once by the composition root, passed down as values."""

from __future__ import annotations

from dataclasses import dataclass

PAGE_SIZE = 16  # tokens


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Settings of one replica.

    Attributes:
        model_path: checkpoint folder in the published format, the same path on every node.
        device: ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        threads: CPU threads of the engine's tensor operations; 0 leaves the library's choice.
        kv_cache_bytes: memory of the page pool; None: what is left of a GPU, or enough for two full contexts.
        page_size: tokens per page.
        max_num_seqs: sequences in a batch; also the replica's soft capacity for the router.
        max_batched_tokens: tokens of one engine step.
        max_prefill_while_decoding: of those, prompt tokens while any answer is being generated.
        max_waiting: turns that may wait for the batch; more are refused.
        max_wait_s: predicted wait for the batch beyond which turns are refused.
        max_named_tenants: tenants with a label of their own in the metrics.
        deterministic: equal bits for equal requests, see ``cluster.engine.deterministic``.
        engine_process: whether the engine has a process of its own, see ``cluster.engine.process``.
        quantize: 8 or 4: bits that the blocks' weights are quantized to when loaded; 0: as they are stored.
        lora: folder of a LoRA adapter to apply, the same path on every node; empty: none.
        prefix: folder of a tuned prefix to apply, likewise.
    """

    model_path: str
    device: str
    dtype: str
    threads: int
    kv_cache_bytes: int | None
    page_size: int = PAGE_SIZE
    max_num_seqs: int = 64
    max_batched_tokens: int = 512
    max_prefill_while_decoding: int = 256
    max_waiting: int = 256
    max_wait_s: float = 30.0
    max_named_tenants: int = 20
    deterministic: bool = False
    engine_process: bool = False
    quantize: int = 0
    lora: str = ""
    prefix: str = ""

    @property
    def max_ongoing_requests(self) -> int:
        """What Serve may hand over at once: well above what the engine holds.

        So the engine refuses, at once and with a time to come back, and turns never wait in Serve, where waiting for
        one replica would block turns for others.
        """
        return 2 * (self.max_num_seqs + self.max_waiting) + 64
