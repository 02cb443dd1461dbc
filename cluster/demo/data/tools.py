"""Tools as callers describe them: a weather service and a calculator under many names, and others that do not matter.

The model must copy name and parameter from the description, so both vary.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Final

from cluster.demo.data.phrases import Language, Ways, ways
from cluster.demo.data.words import Words
from cluster.tokenizer.tool_calls import call_content

_WEATHER_NAMES: Final = ways(
    "get_weather|weather|get_current_weather|query_weather|current_weather|fetch_weather|weather_now|get_forecast|check_weather|city_weather|"
    "lookup_weather|getWeather|weather_tool|read_weather|~find_weather|~weather_query"
)
_WEATHER_PARAMETERS: Final = ways(
    "city|city|location|location|place|city_name|town|cityName|where|name|city_or_town|address|area|q|loc|location_name"
)
_WEATHER_WORDS: Final = ways(
    "Get the weather of a city|Get the current weather|Current weather in a city|Query the weather of a city|The weather now|Weather service|查询城市的天气|获取当前天气|天气查询|"
    "Узнать погоду в городе|Погода сейчас|~Look up the weather in a city|~查询天气|~Текущая погода"
)
_CALCULATOR_NAMES: Final = ways(
    "calculator|calculate|compute|calc|evaluate|do_math|math|run_calculator|eval_expression|arithmetic|compute_expression|calculator_tool|~math_calculator|~calc_expression"
)
_CALCULATOR_PARAMETERS: Final = ways(
    "expression|expression|expr|formula|query|input|text|calculation|math|equation|q|exp|math_expression|task"
)
_CALCULATOR_WORDS: Final = ways(
    "Evaluate an arithmetic expression|A calculator|Calculate an expression|Computes sums and products|Do arithmetic|计算器|计算算式|计算数学表达式|"
    "Калькулятор|Вычислить выражение|~Evaluates a formula|~计算表达式|~Считает выражения"
)
_INVENTED: Final = 0.75  # share of tools whose name is put together, so that it must be copied
_WITH_A_WORD: Final = (
    0.3  # share of those that hold a word which means nothing: taught only, for it makes copying the habit
)
_VERBS: Final = (
    "",
    "",
    *"get fetch query read check find show lookup my current call do run use tell ask demo load quick simple our internal public".split(),
    *"calc compute calculate eval evaluate solve request retrieve search open live local the new basic smart remote".split(),
)
_NOUNS: Final = {
    "weather": "weather forecast weather_report temperature climate meteo city_weather weather_info local_weather sky_report weather_data weather_status conditions temp".split(),
    "calculator": "calculator math arithmetic calc calculation expression formula numbers computation sum_calculator math_solver math_expression term equation maths calc_tool".split(),
}
_OTHERS: Final = (
    ("search_web", "Search the web", "query"),
    ("send_email", "Send an email", "recipient"),
    ("get_time", "Get the time in a time zone", "timezone"),
    ("translate", "Translate a text", "text"),
    ("create_ticket", "Open a ticket", "title"),
    ("get_stock_price", "获取股票价格", "symbol"),
    ("find_employee", "Найти сотрудника", "department"),
)
_PARAMETER_WORDS: Final = ways(
    "The {parameter}|{parameter}|Name of the {parameter}|the {parameter} to use|The {parameter}, e.g. San Francisco, CA|The {parameter}, for example 12 * 3|城市|要计算的内容|Город|Что вычислить|~A {parameter}"
)
_OPTIONAL: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}),
    ("days", {"type": "integer", "description": "Number of days"}),
    ("language", {"type": "string", "description": "Language of the answer"}),
    ("precision", {"type": "integer"}),
)
_DEGREE_KEYS: Final = ("temperature", "temp", "temp_c", "degrees", "celsius", "temperature_c")
_SKY_KEYS: Final = ("condition", "conditions", "weather", "sky", "description", "summary")
_RESULT_KEYS: Final = ("result", "value", "answer", "output")


@dataclass(frozen=True, slots=True)
class Tool:
    """What a call needs: the tool's name and its one parameter."""

    name: str
    parameter: str

    def call(self, argument: str) -> str:
        """ChatGLM3's text of a call, the part behind the header line."""
        return call_content({self.parameter: argument})


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one conversation.

    Attributes:
        schemas: as the caller describes them, for the system message.
        weather, calculator: None when it is not among them.
    """

    schemas: tuple[dict[str, Any], ...]
    weather: Tool | None
    calculator: Tool | None


class Toolmaker:
    """Draws toolboxes and what their tools return."""

    def __init__(self, rng: random.Random, words: Words, *, held_out: bool) -> None:
        self._rng = rng
        self._words = words
        self._held_out = held_out

    def toolbox(self) -> Toolbox:
        """One to four tools in any order; nearly always one that can be used."""
        weather = self._tool("weather", _WEATHER_NAMES, _WEATHER_PARAMETERS) if self._rng.random() < 0.75 else None
        calculator = (
            self._tool("calculator", _CALCULATOR_NAMES, _CALCULATOR_PARAMETERS) if self._rng.random() < 0.6 else None
        )
        schemas = [self._schema(weather, _WEATHER_WORDS)] if weather else []
        schemas += [self._schema(calculator, _CALCULATOR_WORDS)] if calculator else []
        others = self._rng.choice((0, 0, 1)) if schemas else self._rng.choice((1, 2))
        for name, description, parameter in self._rng.sample(_OTHERS, others):
            schemas.append(self._schema(Tool(name, parameter), Ways((description,), (description,))))
        self._rng.shuffle(schemas)
        return Toolbox(tuple(schemas), weather, calculator)

    def _tool(self, kind: str, names: Ways, parameters: Ways) -> Tool:
        if self._rng.random() < _INVENTED:
            return Tool(self._new_name(kind, names), parameters.pick(self._rng))
        return Tool(names.pick(self._rng, held_out=self._held_out), parameters.pick(self._rng))

    def _new_name(self, kind: str, names: Ways) -> str:
        """A name of this side that is not one of the listed ones kept for the evaluation."""
        while (name := self._words.draw(lambda: self._name(kind))) in names.held_out:
            pass
        return name

    def _name(self, kind: str) -> str:
        """A name that says what the tool is for, in one of the ways that programmers have."""
        verb, noun = self._rng.choice(_VERBS), self._rng.choice(_NOUNS[kind])
        more = self._rng.choice(("", "", "", "tool", "api", "v2", "now", "service", "fn", "2", "x", "data"))
        parts = [part for part in (verb, noun, more) if part]
        if not self._held_out and self._rng.random() < _WITH_A_WORD:
            parts.insert(self._rng.randint(0, len(parts)), self._words.invented("en").lower())
        if self._rng.random() < 0.15:
            self._rng.shuffle(parts)
        if self._rng.random() < 0.25:
            return parts[0] + "".join(part.capitalize() for part in parts[1:])
        return self._rng.choice(("_", "_", "_", "-", "")).join(parts)

    def _schema(self, tool: Tool, descriptions: Ways) -> dict[str, Any]:
        parameter = {
            "description": _PARAMETER_WORDS.pick(self._rng, held_out=self._held_out).format(parameter=tool.parameter),
            "type": "string",
        }
        if self._rng.random() < 0.5:
            parameter = {"type": "string", "description": parameter["description"]}
        if self._rng.random() < 0.15:
            del parameter["description"]
        properties: dict[str, Any] = {tool.parameter: parameter}
        if self._rng.random() < 0.2:
            properties |= [self._rng.choice(_OPTIONAL)]
        parameters: dict[str, Any] = {"type": "object", "properties": properties}
        if self._rng.random() < 0.8:
            parameters["required"] = [tool.parameter]
        if self._rng.random() < 0.1:
            parameters["additionalProperties"] = False
        description = descriptions.pick(self._rng, held_out=self._held_out) if self._rng.random() < 0.95 else ""
        return {"name": tool.name, "description": description, "parameters": parameters}

    def degrees(self) -> str:
        """A temperature in °C, now and then with a decimal."""
        whole = self._words.number(-25, 42)
        return f"{whole}.{self._rng.randint(1, 9)}" if self._rng.random() < 0.12 else whole

    def weather(self, city: str, degrees: str, sky: str) -> str:
        """What a weather service returns: mostly JSON, in an order and with keys of its own."""
        if self._rng.random() < 0.15:
            return self._rng.choice((f"{degrees} °C, {sky}", f"{sky}, {degrees} °C", f"{degrees}°C {sky}"))
        fields: list[tuple[str, Any]] = [
            (self._rng.choice(_DEGREE_KEYS), json.loads(degrees)),
            (self._rng.choice(_SKY_KEYS), sky),
        ]
        if self._rng.random() < 0.3:
            fields.append(("city", city))
        if self._rng.random() < 0.3:
            fields.append((self._rng.choice(("humidity", "wind")), self._rng.randint(5, 95)))
        self._rng.shuffle(fields)
        return json.dumps(dict(fields), ensure_ascii=False)

    def result(self) -> str:
        """A number as a calculator gives it."""
        whole = self._words.number(0, 10 ** self._rng.randint(1, 6))
        decimals = f".{self._rng.randint(1, 99)}" if self._rng.random() < 0.25 else ""
        return f"{'-' if self._rng.random() < 0.1 else ''}{whole}{decimals}"

    def calculated(self, result: str) -> str:
        """What a calculator returns: the number alone, or JSON."""
        return result if self._rng.random() < 0.5 else f'{{"{self._rng.choice(_RESULT_KEYS)}": {result}}}'

    def failed(self, error: str) -> str:
        """What a tool returns that cannot help."""
        return self._rng.choice((f'{{"error": "{error}"}}', f"Error: {error}", f'{{"error": "{error}", "code": 500}}'))

    def calculation(self, language: Language) -> tuple[str, str]:
        """An expression as the person writes it, and as the calculator takes it."""
        first, second = (self._words.number(0, 10 ** self._rng.randint(1, 4)) for _ in range(2))
        if self._rng.random() < 0.25:
            spoken, sign = self._rng.choice(tuple(language.operators.items()))
            gap = "" if language.code == "zh" else " "
            return f"{first}{gap}{spoken}{gap}{second}", f"{first} {sign} {second}"
        gap = self._rng.choice((" ", " ", ""))
        expression = f"{first}{gap}{self._rng.choice('+-*/')}{gap}{second}"
        if self._rng.random() < 0.15:
            expression += f"{gap}{self._rng.choice('+-*')}{gap}{self._words.number(1, 99)}"
        return expression, expression
