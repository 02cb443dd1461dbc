"""What a dispatcher is told once, at its start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DispatcherSettings:
    """Limits and times of one dispatcher.

    Attributes:
        slots: turns it carries out at once.
        poll_s: pause after a look that found nothing, or no room.
        care_s: how often delayed jobs, lost jobs and due turns are looked at.
        extend_s: how often the queue hears that the jobs in hand are worked on.
        lag_s: how often the queue is asked how much there is in it.
        idle_s: a job of another dispatcher that the queue has not heard of for so long is taken over.
        max_tries: a job that finds no room so often is given up; about two hours.
        first_pause_s: before the second try; doubled each time.
        longest_pause_s: and never longer than this.
        refused_s: after a refusal no job is taken for at most this long.
        queued_s: a turn in the queue is looked at again after this long.
        again_s: a turn that found no room outside the queue is looked at again after this long.
        settle_s: how long the jobs of turns that were released may take to be settled.
        absent_s: a turn without a record is forgotten after this long.
    """

    slots: int = 64
    poll_s: float = 0.05
    care_s: float = 1.0
    extend_s: float = 10.0
    lag_s: float = 1.0
    idle_s: float = 30.0
    max_tries: int = 100
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0
    refused_s: float = 2.0
    queued_s: float = 3_600.0
    again_s: float = 2.0
    settle_s: float = 2.0
    absent_s: float = 60.0

    def pause_s(self, tries: int) -> float:
        """How long to leave a job alone that has found no room ``tries`` times."""
        return min(self.first_pause_s * 2.0 ** (tries - 1), self.longest_pause_s)
