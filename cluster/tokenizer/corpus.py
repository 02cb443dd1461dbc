"""Sentences of the project's own, drawn from a seed: what its tokenizers are trained on.

English, Chinese, Russian, code and numbers take turns, so every prefix of the stream holds all five. The sentences
mean little on purpose; nothing here was copied from anywhere. A large vocabulary needs more words than these lists
hold, so a sixth kind can join that makes words up from syllables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

_ENGLISH: Final = {
    "who": "the engineer|my neighbour|a careful driver|the night nurse|our captain|this old machine|the young baker|"
    "everyone|the model|your server|a quiet student|the weather station",
    "does": "repairs|remembers|carries|measures|answers|paints|forgets|opens|follows|watches|builds|translates",
    "what": "the yellow kettle|a broken bicycle|twelve letters|the morning train|an honest question|the harbour lights|"
    "a long conversation|the cache|warm bread|the winter garden|several words|a map of the river",
    "when": "before sunrise|in the afternoon|without a word|every second Tuesday|while it rains|after the meeting|"
    "near the bridge|for the third time|at half past nine|as usual",
    "form": "{who} {does} {what} {when}.|When {who} {does} {what}, {who} {does} {what}.|Does {who} remember {what}?|"
    "Hello, {who} said; {what} is here {when}.|Please tell me how {who} {does} {what}!|"
    'I think "{what}" was {when}, but {who} {does} {what}.',
}
_CHINESE: Final = {
    "who": "老师|我的朋友|那位工程师|隔壁的孩子|医生|你们的船长|这台机器|年轻的面包师|语言模型|服务器|大家|安静的学生",
    "does": "修好了|记得|带来了|测量|回答了|忘记了|打开|看着|建造|翻译|喜欢|准备",
    "what": "黄色的水壶|一辆旧自行车|十二封信|早上的火车|一个诚实的问题|港口的灯光|很长的对话|刚出炉的面包|冬天的花园|"
    "几句话|河流的地图|今天的天气",
    "when": "日出之前|下午|每个星期二|下雨的时候|开会以后|在桥边|第三次|九点半|像平时一样|晚上",
    "form": "{who}{when}{does}{what}。|{when}，{who}{does}{what}，{who}{does}{what}。|你好，{who}还{does}{what}吗？|"
    "请告诉我{who}为什么{does}{what}！|我觉得“{what}”不错，可是{who}{when}{does}{what}；谢谢。",
}
_RUSSIAN: Final = {
    "who": "инженер|моя соседка|осторожный водитель|ночная сестра|наш капитан|эта старая машина|молодой пекарь|"
    "каждый|модель|сервер|тихий ученик|погодная станция",
    "does": "чинит|помнит|несёт|измеряет|рисует|забывает|открывает|ищет|видит|строит|переводит|любит",
    "what": "жёлтый чайник|сломанный велосипед|двенадцать писем|утренний поезд|честный вопрос|огни гавани|"
    "долгий разговор|тёплый хлеб|зимний сад|несколько слов|карту реки|съёмку",
    "when": "до рассвета|днём|без единого слова|каждый второй вторник|пока идёт дождь|после встречи|у моста|"
    "в третий раз|в половине десятого|как обычно",
    "form": "{who} {does} {what} {when}.|Когда {who} {does} {what}, {who} {does} {what}.|Разве {who} {does} {what}?|"
    "Привет! Где {what} и кто {when} {does} {what}?|Скажите, почему {who} {does} {what}: «{what}»?",
}
_CODE: Final = {
    "name": "value|count|items|index|total|node|queue|message|result|key|line|page|token|city|user|path",
    "call": "get|load|append|print|encode|decode|open|close|measure|send|find|merge",
    "form": "def {call}_{name}({name}, {name}):\n    return {name} + {number}\n|"
    "    for {name} in {call}({name}):\n        {name}[{number}] = {call}({name})\n|"
    "if {name} != {number} and {name} < {number}:\n    {name} = self.{call}_{name}()\n|"
    '{{"{name}": "{name}", "{name}": [{number}, {number}], "{name}": true}}|'
    "```python\ntool_call({name}='{name}', {name}={number})\n```|"
    "https://{name}.example.org/{call}/{name}?{name}={number}&{name}=%20#{name}|"
    "SELECT {name}, {name} FROM {name} WHERE {name} >= {number};|\tconst {name} = ({name}) => {{ {call}({name}); }};",
}
_NUMBERS: Final = {
    "form": "{number} + {number} = {number}|{number}.{number}%|{number}:{number} | -{number}|[{number}, {number}]|"
    "({number} * {number}) / {number}|№ {number}, ${number}, {number}°C|{number}-{number}-{number}",
}


_SYLLABLES: Final = {
    "latin": [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"],
    "cyrillic": [consonant + vowel for consonant in "бвгдклмнпрст" for vowel in "аеиоу"],
}


def sentences(seed: int, count: int, *, invent_words: bool = False) -> Iterator[str]:
    """Yield ``count`` sentences; equal arguments give equal sentences, and more of them begin with the same ones."""
    rng = random.Random(seed)  # noqa: S311 - word choice, not a secret
    kinds = [_writer(rng, kind) for kind in (_ENGLISH, _CHINESE, _RUSSIAN, _CODE, _NUMBERS)]
    if invent_words:
        kinds += [partial(_invented, rng, syllables) for syllables in _SYLLABLES.values()]
    return (kinds[index % len(kinds)]() for index in range(count))


def _writer(rng: random.Random, kind: dict[str, str]) -> Callable[[], str]:
    words = {slot: _Choice(rng, choices.split("|")) for slot, choices in kind.items()}
    slots = words | {"number": _Number(rng)}
    return lambda: str(words["form"]).format(**slots)


def _invented(rng: random.Random, syllables: list[str]) -> str:
    return " ".join("".join(rng.choices(syllables, k=rng.randint(2, 5))) for _ in range(12))


class _Choice:
    """A slot of a sentence: written out as another of its words each time."""

    def __init__(self, rng: random.Random, words: list[str]) -> None:
        self._rng = rng
        self._words = words

    def __str__(self) -> str:
        return self._rng.choice(self._words)


class _Number(_Choice):
    """A slot that is written out as a number of one to five digits."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, [])

    def __str__(self) -> str:
        return str(self._rng.randrange(10 ** self._rng.randint(1, 5)))
