"""One run, sorted for its judge: which turn is whose, what each client was told, and what it must find behind a turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from tests.chaos.kept import Kept, KeptTurn, key_digest
from tests.chaos.record import NO_CURSOR, Act, Ask, End, Entry, Event, Listed, Read, Reply

ENDED = {"completed", "incomplete", "cancelled"}
DELTA = "response.output_text.delta"

Said = list[tuple[str, str]]  # role and text, oldest first


class Case:
    """A run.

    Attributes:
        kept: what Redis holds.
        asks: by name, in the order in which each client made them.
        ends: by ask.
        reads, replies: by response, "" for those that named none; in order.
        turn_of: the turn of each ask, by what its idempotency key stands for; without those that have none.
        ask_of: the other way.
    """

    def __init__(self, entries: Iterable[Entry], kept: Kept) -> None:
        self.kept = kept
        self.asks: dict[str, Ask] = {}
        self.ends: dict[str, list[End]] = defaultdict(list)
        self.reads: dict[str, list[Read]] = defaultdict(list)
        self.replies: dict[str, list[Reply]] = defaultdict(list)
        self.listed: list[Listed] = []
        self.acts: list[Act] = []
        for entry in entries:
            self._sort(entry)
        reserved = {name: kept.reserved.get(key_digest(ask.key), "") for name, ask in self.asks.items()}
        self.turn_of = {name: turn for name, turn in reserved.items() if turn in kept.turns}
        self.ask_of = {turn: name for name, turn in self.turn_of.items()}

    def _sort(self, entry: Entry) -> None:
        match entry:
            case Ask():
                self.asks[entry.ask] = entry
            case End():
                self.ends[entry.ask].append(entry)
            case Read():
                self.reads[entry.response].append(entry)
            case Reply():
                self.replies[entry.response].append(entry)
            case Listed():
                self.listed.append(entry)
            case Act():
                self.acts.append(entry)

    @cached_property
    def conversations(self) -> dict[str, list[str]]:
        """Asks of each conversation in their order; a client sends one after the other."""
        made: dict[str, list[str]] = defaultdict(list)
        for name, ask in self.asks.items():
            if ask.conversation:
                made[ask.conversation].append(name)
        return made

    def text(self, turn: str) -> str:
        """The text that is kept of a turn's answer."""
        answer = self.kept.turns[turn].answer
        return self.kept.items[answer].text if answer in self.kept.items else ""

    def said(self, item: str) -> tuple[str, str]:
        """Role and text of an item."""
        kept = self.kept.items.get(item)
        return (kept.role, kept.text) if kept else ("lost", item)

    def is_adopted(self, turn: str) -> bool:
        """Whether somebody took it over from an owner that had died, or seemed to."""
        return self.adoptions(turn) > 0

    def adoptions(self, turn: str) -> int:
        """How often; what a dispatcher takes from the queue is none."""
        ask = self.asks.get(self.ask_of.get(turn, ""))
        return max(self.kept.turns[turn].claims - bool(ask and ask.is_background), 0)

    def tellings(self, turn: str) -> list[list[Event]]:
        """What was told of a turn, each time from its beginning; connections with a cursor go on with a telling."""
        told: list[list[Event]] = []
        for read in self.reads[turn]:
            if read.cursor == NO_CURSOR:
                told.append([])
            if told:
                told[-1] += read.events
        return told

    def path(self, turn: str) -> Said:
        """What its client saw up to and with a turn."""
        said: Said = []
        name = self.ask_of.get(turn, "")
        while name:
            ask = self.asks[name]
            said[:0] = self._seen(ask)
            name = self._before(ask)
        return said

    def line_of(self, turn: str) -> str:
        """The key of its line."""
        return f"{turn.removeprefix('resp_')[:16]}:{self.kept.turns[turn].line}"

    def upto(self, turn: str) -> list[str] | None:
        """The items on its line up to the last one behind it; None: they are not there."""
        record, line = self.kept.turns[turn], self.kept.lines.get(self.line_of(turn))
        if line is None or (record.last and record.last not in line.items):
            return None
        return line.items[: line.items.index(record.last) + 1] if record.last else []

    def is_kept(self, record: KeptTurn) -> bool:
        """Whether a turn's question belongs on its line."""
        return record.state in ENDED and not (record.state == "cancelled" and not record.answer)

    def _seen(self, ask: Ask) -> Said:
        ends = [end for end in self.ends[ask.ask] if end.state in ENDED and (end.text or end.state != "cancelled")]
        return [("user", ask.input), *([("assistant", ends[-1].text)] if ends[-1].text else [])] if ends else []

    def _before(self, ask: Ask) -> str:
        """The ask that stands before this one."""
        if ask.previous:
            return self.ask_of.get(ask.previous, "")
        names = self.conversations[ask.conversation] if ask.conversation else [ask.ask]
        place = names.index(ask.ask)
        return names[place - 1] if place else ""
