"""What a process that runs turns reports of them."""

from __future__ import annotations

from cluster.metrics.families import Family, counter, gauge, histogram
from services.turns.metrics import Histogram, TurnMetrics


def turn_families(turns: TurnMetrics) -> list[Family]:
    """The families of one process's turns."""
    return [
        _histogram("chatglm_time_to_first_token_seconds", "From a turn's arrival to its first token.", turns.ttft_s),
        _histogram("chatglm_inter_token_latency_seconds", "From token to token of one answer.", turns.latency_s),
        counter("chatglm_turns_ended", "Ended turns by outcome.", turns.turns, label="outcome"),
        gauge("chatglm_turns_active", "Turns under way in this gateway.", turns.active),
        counter("chatglm_served_prompt_tokens", "Prompt tokens of served turns.", turns.prompt_tokens),
        counter("chatglm_served_cached_tokens", "Of those, tokens whose KV was in a cache.", turns.cached_tokens),
        counter("chatglm_served_output_tokens", "Tokens received from replicas.", turns.output_tokens),
        counter("chatglm_turn_moves", "Answers that went on at another replica.", turns.moves),
        counter("chatglm_pins", "Turns by why their replica was chosen.", turns.pins, label="why"),
        counter("chatglm_turn_errors", "Turns that ended in an error, by code.", turns.errors, label="code"),
        counter("chatglm_tool_calls", "Answers that began as a call, by outcome.", turns.tool_calls, label="outcome"),
        counter("chatglm_id_index_hits", "Returned answers whose sampled ids were known.", turns.index_hits),
        counter("chatglm_id_index_misses", "Returned answers that were encoded again.", turns.index_misses),
        counter("chatglm_turn_adoptions", "Turns taken over, from the queue or a dead owner.", turns.adoptions),
        counter("chatglm_stream_resumes", "Streams picked up behind an event.", turns.resumes),
        counter("chatglm_stream_diverged", "Of those, answers that were not the ones begun.", turns.diverged),
    ]


def _histogram(name: str, text: str, values: Histogram) -> Family:
    return histogram(name, text, bounds=values.bounds, counts=values.counts, total=values.total)
