"""What a process that runs turns is told once, at its start."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that answers.

    Attributes:
        name: as callers and records name it.
        context_length: positions it has, prompt and answer together.
        fingerprint: of weights, tokenizer and template; equal fingerprints give equal ids.
    """

    name: str
    context_length: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """How a turn's record is kept up while it runs.

    Attributes:
        lease_s: how long the store waits for a sign of life before others may take the turn.
        margin_s: the owner counts its lease as over this much earlier: clocks drift, and a reply takes time.
        flush_s: ids wait at most this long.
        flush_ids: or until this many wait.
        renew_s: a turn without new ids shows life this often.
        away_s: how long a turn outlives a store that does not answer, after its lease is over.
        retry_s: pause between tries at a store that does not answer.
    """

    lease_s: float = 15.0
    margin_s: float = 3.0
    flush_s: float = 0.25
    flush_ids: int = 64
    renew_s: float = 2.0
    away_s: float = 60.0
    retry_s: float = 0.25


@dataclass(frozen=True, slots=True)
class KeepSettings:
    """For how long a replica is asked to keep the KV of a turn before that of one-shot turns.

    Attributes:
        conversation_s: of a turn of a stored conversation; about as long as a person takes to come back.
        chat_s: of a stateless chat that has begun; shorter, for nobody says whether it goes on.
    """

    conversation_s: float = 600.0
    chat_s: float = 120.0


@dataclass(frozen=True, slots=True)
class TurnSettings:
    """Limits of a turn.

    Attributes:
        deadline_s: a turn may take this long altogether.
        max_moves: how often an answer may go on elsewhere.
        max_retry_s: the longest pause before it does, where a replica said when to come back.
        load_items: how many of a conversation's newest items are read at first; where a window holds more, four times
            as many, and so on.
        inline_chars: longer prompts are encoded in a thread; 5 characters take about 2 µs.
        resume_s: a stored turn goes on this long without its caller, who may come back to it; a tenant may have its
            own.
        waiting_s: a turn in the queue is given up after this long.
        orphan_s: a turn whose owner has died is left to a dispatcher for this long; then whoever meets it ends it.
        look_s: how often readers look at turns that others compute.
        leave_s: how long a caller that leaves a stored turn waits for its record to be written.
        journal: of stored turns.
        keep: of the KV of turns.
    """

    deadline_s: float = 1800.0
    max_moves: int = 3
    max_retry_s: float = 2.0
    load_items: int = 100
    inline_chars: int = 20_000
    resume_s: float = 30.0
    waiting_s: float = 86_400.0
    orphan_s: float = 60.0
    look_s: float = 0.25
    leave_s: float = 2.0
    journal: JournalSettings = field(default_factory=JournalSettings)
    keep: KeepSettings = field(default_factory=KeepSettings)
