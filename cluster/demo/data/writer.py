"""Writes one conversation turn by turn: the person's words, the answer that is taught, and what a right one holds."""

from __future__ import annotations

import random
from typing import Final

from cluster.demo.data.dialogue import Dialogue, Message, Turn
from cluster.demo.data.hurry import as_typed
from cluster.demo.data.languages import is_held_out_question
from cluster.demo.data.phrases import Language, Ways
from cluster.demo.data.tools import Toolbox, Toolmaker
from cluster.demo.data.words import Words, is_held_out
from cluster.tokenizer.tool_calls import system_with_tools

LARGEST_ADDEND: Final = 50
FACTS: Final = ("name", "city", "code")


class Writer:
    """Writes one conversation turn by turn; every method adds one turn (a tool call and its result: two).

    Args:
        rng: source of every choice.
        language: of the first turns.
        held_out: use phrasings and values that are never taught, and write them as they stand.
        words: where values come from; by default those of the chosen side.
    """

    def __init__(
        self, rng: random.Random, language: Language, *, held_out: bool = False, words: Words | None = None
    ) -> None:
        self.dialogue = Dialogue()
        self.language = language
        self.known: dict[str, str] = {}
        self.tools = Toolbox((), None, None)
        self.persona: dict[str, str] | None = None
        self._rng = rng
        self._held_out = held_out
        self._words = words or Words(rng, held_out=held_out)
        self._maker = Toolmaker(rng, self._words, held_out=held_out)

    # --- who the model is

    def be_assistant(self) -> None:
        """A system message that changes nothing, of one to three sentences."""
        self._system(" ".join(self._pick(self.language.systems) for _ in range(self._rng.randint(1, 3))))

    def be_persona(self) -> None:
        """A system message that gives the model a name and a job."""
        self.persona = {
            "name": self._words.value("name", self.language.code),
            "job": self._rng.choice(self.language.jobs),
        }
        self._system(self._pick(self.language.persona).format(**self.persona))

    def offer_tools(self) -> None:
        """A system message that describes tools, now and then behind a text of the caller's own."""
        self.tools = self._maker.toolbox()
        own = self._pick(self.language.systems) if self._rng.random() < 0.15 else ""
        self._system(system_with_tools(own, self.tools.schemas))

    def _system(self, content: str) -> None:
        self.dialogue.system = Message("system", content)

    # --- what is said

    def topic(self) -> None:
        """Small talk, or a question about the cluster."""
        asks_who = {"who are you"} if self.persona else set()
        topic = self._rng.choice([topic for topic in self.language.topics if topic.name not in asks_who])
        subjects = self.language.subjects.get(topic.name, ())
        if subjects and self._rng.random() < 0.4:
            question = self._ask(self.language.ask_about, thing=self._rng.choice(subjects))
        else:
            question = self._ask(topic.ask)
        self._say(topic.name, question, topic.answer)

    def who(self) -> None:
        """The persona is asked who it is."""
        assert self.persona is not None
        needed = (self.persona["name"], self.persona["job"])
        self._say("persona", self._ask(self.language.ask_persona), self.language.be_persona, needed, **self.persona)

    def tell(self, kind: str) -> None:
        """The person tells a fact; a later one replaces it."""
        fact = self.language.facts[kind]
        value = self.known[kind] = self._hasty(self._words.value(kind, self.language.code))
        self._say("tell", self._ask(fact.tell, value=value), fact.noted, (value,), value=value)

    def tell_both(self) -> None:
        """The person tells name and city at once."""
        both = {kind: self._words.value(kind, self.language.code) for kind in ("name", "city")}
        self.known |= both
        needed = tuple(both.values())
        self._say("tell", self._ask(self.language.tell_both, **both), self.language.noted_both, needed, **both)

    def recall(self, kind: str) -> None:
        """The person asks for a fact."""
        fact = self.language.facts[kind]
        value = self.known.get(kind)
        if value is None:
            self._say("untold", self._ask(fact.ask), fact.untold)
        else:
            self._say("recall", self._ask(fact.ask), fact.recall, (value,), value=value)

    def recall_both(self) -> None:
        """The person asks for name and city at once."""
        both = {kind: self.known[kind] for kind in ("name", "city")}
        self._say("recall", self._ask(self.language.ask_both), self.language.recall_both, tuple(both.values()), **both)

    def add(self) -> None:
        """A sum within the taught range."""
        a, b = self._addends()
        slots = {"a": str(a), "b": str(b), "c": str(a + b)}
        needed = (f"= {a + b}{_end(self.language.sum_answer)}",)
        self._say("sum", self._ask(self.language.ask_sum, **slots), self.language.sum_answer, needed, **slots)

    def add_large(self) -> None:
        """Arithmetic that was not taught."""
        slots = {name: str(self._rng.randint(101, 10 ** self._rng.randint(3, 5))) for name in "ab"}
        self._say("large", self._ask(self.language.ask_large, **slots), self.language.too_large)

    def unknown(self) -> None:
        """Something that the model does not know."""
        thing = self._rng.choice(self.language.things)
        if self._rng.random() < 0.4:
            thing = self._words.value(self._rng.choice(FACTS), self.language.code)
        ask = self.language.ask_about if self._rng.random() < 0.4 else self.language.ask_unknown
        self._say("unknown", self._ask(ask, thing=thing), self.language.unknown)

    def weather(self) -> None:
        """The weather somewhere: by the tool, or not at all."""
        city = self._hasty(self._words.value("city", self.language.code))
        question = self._ask(self.language.ask_weather, city=city)
        if self.tools.weather is None:
            self._say("no tool", question, self.language.no_weather)
            return
        self._call(question, self.tools.weather.name, self.tools.weather.call(city))
        if self._fails():
            return
        sky, own_sky = self._rng.choice(tuple(self.language.skies.items()))
        degrees = self._maker.degrees()
        seen = self._maker.weather(city, degrees, self._rng.choice((sky, own_sky)))
        slots = {"city": city, "degrees": degrees, "sky": own_sky}
        self._observe(seen, self.language.weather, tuple(slots.values()), **slots)

    def calculate(self) -> None:
        """A calculation by the tool."""
        assert self.tools.calculator is not None
        spoken, expression = self._maker.calculation(self.language)
        question = self._ask(self.language.ask_calculation, expression=spoken)
        self._call(question, self.tools.calculator.name, self.tools.calculator.call(expression))
        if self._fails():
            return
        result = self._maker.result()
        self._observe(self._maker.calculated(result), self.language.result, (result,), result=result)

    def _fails(self) -> bool:
        """Now and then the tool reports an error instead."""
        if self._rng.random() >= 0.08:
            return False
        error = self._rng.choice(self.language.errors)
        self._observe(self._maker.failed(error), self.language.tool_error, (error,), error=error)
        return True

    # --- how it is written down

    def _say(self, kind: str, question: str, answer: Ways, needed: tuple[str, ...] = (), **slots: str) -> None:
        text = answer.pick(self._rng).format(**slots)
        self._add(kind, Message("user", question), Message("assistant", text), needed)

    def _call(self, question: str, name: str, call: str) -> None:
        self._add("tool", Message("user", question), Message("assistant", call, name), (call,))

    def _observe(self, seen: str, answer: Ways, needed: tuple[str, ...], **slots: str) -> None:
        text = answer.pick(self._rng).format(**slots)
        self._add("observation", Message("observation", seen), Message("assistant", text), needed)

    def _add(self, kind: str, message: Message, answer: Message, needed: tuple[str, ...]) -> None:
        self.dialogue.turns.append(Turn(kind, self.language.code, message, answer, needed))

    def _pick(self, choices: Ways) -> str:
        return choices.pick(self._rng, held_out=self._held_out)

    def _ask(self, choices: Ways, **slots: str) -> str:
        """A question with its slots filled. Taught ones are written as hastily as people do."""
        if self._held_out:
            return self._pick(choices).format(**slots)
        while True:
            question = as_typed(self._rng, self._pick(choices), self.language).format(**slots)
            if not is_held_out_question(question, self.language.code):
                return question

    def _hasty(self, value: str) -> str:
        """Now and then without its capitals."""
        return value.lower() if not self._held_out and self._rng.random() < 0.05 else value

    def _addends(self) -> tuple[int, int]:
        while True:
            a, b = self._rng.randint(0, LARGEST_ADDEND), self._rng.randint(0, LARGEST_ADDEND)
            if is_held_out(f"{a} + {b}") is self._held_out:
                return a, b


def _end(choices: Ways) -> str:
    """The last character of an answer, which ends the number before it."""
    return choices.taught[0][-1]
