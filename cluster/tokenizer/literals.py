"""A call with literal arguments, as a model writes it in Python's syntax: ``f(a='x', b=[1, {'k': None}])``.

Read by hand, never by ``eval`` and not by ``ast`` either: Python's own parser can be made to exhaust the C stack, warns
about text it only reads, and refuses ``f(from='x')``, which a model that was shown a parameter ``from`` does write.
Nothing is looked up and nothing is computed, so what cannot be read as data is refused. One pass, linear time.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

MAX_CHARS: Final = 65_536  # of one call
MAX_DEPTH: Final = 32  # lists and dicts inside each other
MAX_NUMBER_CHARS: Final = 100

NAME: Final = re.compile(r"[^\W\d]\w*")
_DIGITS: Final = "[0-9](?:_?[0-9])*"
_EXPONENT: Final = f"[eE][+-]?{_DIGITS}"
# Possessive repeats: a string that is never closed must not be tried in many ways.
_TOKEN: Final = re.compile(
    rf"""
      (?P<blank>(?:[ \t\f\r\n]|\#[^\r\n]*+)++)
    | (?P<string>[rRuU]?(?:
          '''(?:[^\\']|\\.|'(?!''))*+'''
        | \"\"\"(?:[^\\"]|\\.|"(?!""))*+\"\"\"
        | '(?!'')(?:[^\\'\r\n]|\\.)*+'
        | "(?!"")(?:[^\\"\r\n]|\\.)*+"
      ))
    | (?P<float>(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:{_EXPONENT})?|{_DIGITS}{_EXPONENT})
    | (?P<int>0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+|{_DIGITS})
    | (?P<name>{NAME.pattern})
    | (?P<mark>[(){{}}\[\]:,=+-])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(\r\n|[0-7]{1,3}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES: Final = {
    **dict.fromkeys(("\n", "\r", "\r\n"), ""),  # the line goes on
    **{mark: mark for mark in "\\'\""},
    **dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)),
}
_HALF: Final = re.compile(r"[\ud800-\udfff]")
_CONSTANTS: Final = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_END: Final = "end"


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def parse_call(text: str, function: str) -> dict[str, Any]:
    """The arguments of the one call ``function(name=literal, …)`` that ``text`` is.

    Values are JSON's: a tuple or a set becomes a list in the order written, numbers are finite, names of a dict are
    strings. ``true``, ``false`` and ``null`` are read as Python's own. Keywords of Python may name arguments.

    Raises:
        ValueError: it is anything else, or over a bound. The message gives a place, never the text.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"The call is longer than {MAX_CHARS} characters.")
    reader = _Reader(text)
    arguments = reader.call(function)
    reader.expect_end()
    return arguments


def parse_settled(text: str, function: str) -> tuple[dict[str, Any], bool]:
    """The arguments of a call that is still being written, as far as nothing can change them, and whether it is whole.

    An argument is settled by the comma or bracket behind it. What is no call has none; it never raises.
    """
    settled: dict[str, Any] = {}
    try:
        return _Reader(text[:MAX_CHARS]).call(function, settled), True
    except ValueError:
        return settled, False


class _Reader:
    """Recursive descent with one token of foresight."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next = self._scan(0)

    def call(self, function: str, settled: dict[str, Any] | None = None) -> dict[str, Any]:
        self._take("name", function)
        self._take("mark", "(")
        arguments: dict[str, Any] = {}

        def item() -> None:
            if settled is not None:
                settled.update(arguments)  # a comma has just been taken
            self._argument(arguments)

        self._items(")", item)
        return arguments

    def expect_end(self) -> None:
        self._take(_END)

    def _argument(self, arguments: dict[str, Any]) -> None:
        if self._next.text in arguments:
            raise self._fault("an argument is named twice")
        name = self._take("name")
        self._take("mark", "=")
        arguments[name] = self._value(MAX_DEPTH)

    def _value(self, depth: int) -> Any:
        kind, text, _ = self._next
        if kind == "string":
            return self._string()
        if kind == "name" and text in _CONSTANTS:
            self._take("name")
            return _CONSTANTS[text]
        return self._nested(text, depth) if text in {"(", "[", "{"} else self._number()

    def _nested(self, bracket: str, depth: int) -> Any:
        if not depth:
            raise self._fault(f"values are nested more than {MAX_DEPTH} deep")
        if bracket == "(":
            return self._parenthesised(depth - 1)
        return self._list(depth - 1) if bracket == "[" else self._braced(depth - 1)

    def _string(self) -> str:
        text = ""
        while self._next.kind == "string":  # strings side by side are one
            text += self._unquoted()
            self._take("string")
        return text

    def _unquoted(self) -> str:
        text = self._next.text.lstrip("rRuU")
        quotes = 3 if text[:3] in {"'''", '"""'} else 1
        inner = text[quotes:-quotes]
        if self._next.text[0] not in "rR":
            inner = _ESCAPE.sub(self._escaped, inner)
        if _HALF.search(inner):
            raise self._fault("half a character is no text")
        return inner

    def _escaped(self, match: re.Match[str]) -> str:
        """What an escape stands for. One that Python does not know stays as it is, backslash included."""
        code = match[1]
        if code in _ESCAPES:
            return _ESCAPES[code]
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code[0] not in "xuUN":
            return match[0]
        number = int(code[1:] or "-1", 16)  # one that is cut short has no digits here; names (N) are not read
        if not 0 <= number <= sys.maxunicode:
            raise self._fault("an escape stands for no character")
        return chr(number)

    def _number(self) -> int | float:
        sign = self._take("mark") if self._next.text in {"-", "+"} else ""
        kind, text, _ = self._next
        fault = self._fault("only text, numbers, True, False, None, lists and dicts can be read")
        if kind not in {"int", "float"} or len(text) > MAX_NUMBER_CHARS:
            raise fault
        self._take(kind)
        try:
            number = int(text, 0) if kind == "int" else float(text)
        except ValueError:  # 007
            raise fault from None
        if not math.isfinite(number):
            raise fault
        return -number if sign == "-" else number

    def _parenthesised(self, depth: int) -> Any:
        """``(x)`` is x; ``()``, ``(x,)`` and ``(x, y)`` are lists."""
        self._take("mark", "(")
        values: list[Any] = []
        commas = self._items(")", lambda: values.append(self._value(depth)))
        return values[0] if values and not commas else values

    def _list(self, depth: int) -> list[Any]:
        self._take("mark", "[")
        values: list[Any] = []
        self._items("]", lambda: values.append(self._value(depth)))
        return values

    def _braced(self, depth: int) -> dict[str, Any] | list[Any]:
        self._take("mark", "{")
        if self._next.text == "}":
            self._take("mark")
            return {}
        first = self._value(depth)
        return self._dict(first, depth) if self._next.text == ":" else self._set(first, depth)

    def _set(self, first: Any, depth: int) -> list[Any]:
        values = [first]
        if self._comma("}"):
            self._items("}", lambda: values.append(self._value(depth)))
        return values

    def _dict(self, first: Any, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        self._entry(values, first, depth)
        if self._comma("}"):
            self._items("}", lambda: self._entry(values, self._value(depth), depth))
        return values

    def _entry(self, values: dict[str, Any], name: Any, depth: int) -> None:
        if not isinstance(name, str):
            raise self._fault("the names of a dict are strings")
        self._take("mark", ":")
        values[name] = self._value(depth)

    def _items(self, close: str, item: Callable[[], None]) -> int:
        """Items up to ``close``, which is taken too; how many commas stood among them."""
        commas = 0
        while self._next.text != close:
            item()
            if not self._comma(close):
                return commas
            commas += 1
        self._take("mark", close)
        return commas

    def _comma(self, close: str) -> bool:
        """Take a comma (true) or ``close`` (false)."""
        return self._take("mark", close if self._next.text == close else ",") == ","

    def _take(self, kind: str, text: str | None = None) -> str:
        token = self._next
        if token.kind != kind or (text is not None and token.text != text):
            raise self._fault(f"{text or kind} is expected")
        if kind != _END:
            self._next = self._scan(token.start + len(token.text))
        return token.text

    def _scan(self, start: int) -> _Token:
        if start >= len(self._text):
            return _Token(_END, "", start)
        match = _TOKEN.match(self._text, start)
        if match is None or match.lastgroup is None:
            raise ValueError(f"At character {start} of the call: this is not data.")
        return self._scan(match.end()) if match.lastgroup == "blank" else _Token(match.lastgroup, match[0], start)

    def _fault(self, reason: str) -> ValueError:
        return ValueError(f"At character {self._next.start} of the call: {reason}.")
