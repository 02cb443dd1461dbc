"""Names, cities and code words: some real, most invented, so that the model learns to copy and not to guess.

An eighth of all values, chosen by a hash, is never taught; the evaluation draws from that eighth only.
"""

from __future__ import annotations

import hashlib
import random
import string
from collections.abc import Callable
from typing import Final

_HELD_OUT_SHARE: Final = 8
_INVENTED: Final = 0.6  # share of names and cities that nobody has
_FOREIGN: Final = 0.08  # share of values in another language's script

_NAMES: Final = {
    "en": "Anna Ben Clara David Emma Frank Grace Henry Isabel Jack Kate Liam Maria Noah Olivia Peter Quinn Rachel Sam Tina Uma Victor Wendy Xavier Yara Zoe "
    "Alice Bob Carlos Diana Edward Fiona George Hannah Ivan Julia Kevin Laura Michael Nina Oscar Paula Robert Sarah Thomas Ursula Vera William Tom Lucy "
    "Max Mia Leo Lena Paul Rosa Simon Eva Martin Nora Felix Ada Hugo Ella Otto Ida Karl Lily Mark Jane John James Mary Linda Daniel Sofia Ali Omar Fatima "
    "Raj Priya Chen Yuki Kenji Aisha Hassan Pablo Lucia Marco Giulia Jean Claire Pierre Sven Astrid Lars Ingrid Alan Grete Igor Olga Dmitri Natasha Steve "
    "Andrea Bruno Carmen Dora Elias Flora Gabriel Hilda Irene Jonas Kim Lukas Monica Nick Ophelia Patrick Ralph Stella Tim Vivian Walter",
    "zh": "小明 小红 小李 小王 小张 小芳 小强 小丽 王伟 李娜 张敏 刘洋 陈静 杨帆 赵磊 黄丽 周杰 吴刚 徐静 孙悦 马超 朱婷 胡军 林涛 何平 高兰 罗文 郑爽 梁山 谢芳 宋佳 唐宁 许晴 "
    "安娜 汤姆 玛丽 大卫 约翰 露西 杰克 艾米 老王 老李 阿明 阿芳 王小明 李小红 张大山 刘海燕 陈国强 杨雪梅 赵春生 周文华 吴美玲 孙志远 马玉兰 胡天明 林晓东 高明月",
    "ru": "Анна Борис Вера Глеб Дарья Егор Жанна Захар Ирина Кирилл Лариса Максим Нина Олег Павел Раиса Сергей Татьяна Ульяна Фёдор Христина Эдуард Юлия Яна "
    "Алексей Мария Дмитрий Елена Иван Наталья Пётр Светлана Николай Ольга Андрей Екатерина Михаил Людмила Владимир Галина Артём Полина Роман Софья Тимур "
    "Алиса Виктор Ксения Степан Лев Маша Саша Миша Катя Лена Петя Вася Даша Коля Таня Юра Аня Костя Лиза Гоша Зоя Марк Ева Илья Никита",
}
_CITIES: Final = {
    "en": "London Paris Berlin Madrid Rome Vienna Lisbon Dublin Oslo Stockholm Helsinki Prague Warsaw Budapest Athens Moscow Beijing Shanghai Tokyo Kyoto Seoul "
    "Delhi Mumbai Cairo Nairobi Lagos Sydney Melbourne Boston Chicago Denver Seattle Dallas Houston Miami Toronto Montreal Lima Bogota Santiago Havana Amsterdam "
    "Brussels Geneva Zurich Munich Hamburg Cologne Milan Naples Venice Florence Porto Seville Valencia Krakow Riga Tallinn Vilnius Kiev Minsk Istanbul Ankara "
    "Tehran Baghdad Dubai Karachi Singapore Bangkok Hanoi Manila Jakarta Perth Auckland Leeds York Oxford Cambridge Bristol Glasgow Edinburgh Lyon Nice Graz "
    "Bergen Aarhus Turin Basel Bonn Ghent Utrecht Toledo Austin Portland Phoenix Atlanta Detroit Quito Tunis Accra Dakar Tbilisi",
    "zh": "北京 上海 广州 深圳 成都 杭州 南京 武汉 西安 重庆 天津 苏州 长沙 青岛 大连 厦门 昆明 哈尔滨 沈阳 济南 郑州 福州 合肥 南昌 贵阳 海口 三亚 桂林 无锡 宁波 "
    "香港 台北 东京 巴黎 伦敦 纽约 柏林 罗马 莫斯科 首尔 悉尼 曼谷 新加坡 开罗 马德里 洛杉矶 西宁 拉萨 兰州 太原 石家庄 珠海 东莞 温州",
    "ru": "Москва Казань Самара Пермь Омск Тула Уфа Томск Сочи Псков Тверь Рязань Калуга Киров Орёл Курск Воронеж Саратов Волгоград Новосибирск Екатеринбург "
    "Челябинск Красноярск Иркутск Хабаровск Владивосток Мурманск Архангельск Вологда Ярославль Минск Киев Рига Лондон Париж Берлин Рим Мадрид Пекин Токио Вена "
    "Прага Варшава Хельсинки Стокгольм Осло Афины Каир Сеул Дели Тбилиси Ереван Баку Астана Ташкент Москве Казани Самаре Перми Омске Туле Уфе Лондоне Париже Берлине",
}
_CODES: Final = {
    "en": "kiwi falcon river marble lantern thunder pepper garden silver rocket violin castle ocean candle pirate mirror forest copper velvet anchor meadow dragon "
    "whisper pumpkin harbour saffron comet walnut orchid penguin blizzard cobalt ginger maple otter puzzle raven sapphire tulip umbrella willow zebra bamboo cactus",
    "zh": "蓝鲸 苹果 月亮 石头 金鱼 飞鸟 火车 山河 红叶 白云 老虎 太阳 大海 春风 冬雪 西瓜 熊猫 星星 竹子 荷花 天马 黑猫 青草 玉米 雨伞 银河 铁树 红豆",
    "ru": "ромашка сокол река мрамор фонарь гром перец сад серебро ракета скрипка замок океан свеча пират зеркало лес медь бархат якорь луг дракон тыква гавань "
    "комета орех пингвин метель имбирь клён выдра ворон тюльпан ива зебра кактус берёза медведь",
}
_COLOURS: Final = {
    "en": "blue red green golden black white silent brave tiny quick",
    "ru": "синий красный тихий белый быстрый",
}
_ONSETS: Final = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr ph pl qu sh sk st th tr".split()
_VOWELS: Final = "a e i o u ai ea io ou y".split()
_CODAS: Final = ["", "", "", *"l m n r s t d k x th nd rk st ng".split()]
_RU_ONSETS: Final = "б в г д ж з к л м н п р с т ф х ц ч ш бр гр др кр пл ст св тр вл".split()
_RU_VOWELS: Final = "а е и о у я ё ы ю э".split()
_RU_LETTERS: Final = "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
_RU_CODAS: Final = ["", "", "", *"л м н р с т в й ль нь ск рт".split()]
_ZH_SURNAMES: Final = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严"
_ZH_GIVEN: Final = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉萍红文辉建国春燕志海波宁鹏飞雪梅兰竹菊松柏林森山川江河云雨晨阳月星光天宇浩然子轩梓涵佳怡欣思琪诗雅婷颖瑶慧智仁义礼信忠良德福安康乐嘉美玲珍珠琳"
_ZH_PLACES: Final = (
    "南北东西上下大小新长平安宁海江河山川湖州阳门口城港沙石林泉龙凤白青金玉华清永和兴光明台水云丰昌通武文天高"
)
_ZH_ALL: Final = "".join(
    sorted({*_ZH_SURNAMES, *_ZH_GIVEN, *_ZH_PLACES, *"".join((_NAMES["zh"] + _CITIES["zh"] + _CODES["zh"]).split())})
)
_RARE_HAN: Final = range(0x4E00, 0x9FA6)
_WORDS: Final = {
    language: [word for lists in (_NAMES, _CITIES, _CODES) for word in lists[language].lower().split()]
    for language in ("en", "ru")
}


def is_held_out(value: str) -> bool:
    """Whether the training data never holds ``value``."""
    return hashlib.blake2b(value.lower().encode(), digest_size=4).digest()[0] % _HELD_OUT_SHARE == 0


class Words:
    """Draws values for one side: all taught, or all held out."""

    def __init__(self, rng: random.Random, *, held_out: bool) -> None:
        self._rng = rng
        self._held_out = held_out

    def draw(self, make: Callable[[], str]) -> str:
        """The first value of ``make`` that belongs to this side."""
        while is_held_out(value := make()) is not self._held_out:
            pass
        return value

    def value(self, kind: str, language: str) -> str:
        """A ``name``, ``city`` or ``code``, now and then in the script of another language."""
        if self._rng.random() < _FOREIGN:
            language = self._rng.choice(tuple(_NAMES))
        make = {"name": self._name, "city": self._city, "code": self._code}[kind]
        return self.draw(lambda: make(language))

    def number(self, lowest: int, highest: int) -> str:
        """An integer of this side, as written."""
        return self.draw(lambda: str(self._rng.randint(lowest, highest)))

    def _name(self, language: str) -> str:
        if self._rng.random() > _INVENTED:
            return self._rng.choice(_NAMES[language].split())
        if language == "zh":
            given = _ZH_GIVEN if self._rng.random() < 0.5 else _ZH_ALL
            return self._rng.choice(_ZH_SURNAMES) + "".join(self._rng.choices(given, k=self._rng.randint(1, 2)))
        return self.invented(language)

    def _city(self, language: str) -> str:
        if self._rng.random() > _INVENTED:
            return self._rng.choice(_CITIES[language].split())
        if language == "zh":
            characters = _ZH_PLACES if self._rng.random() < 0.5 else _ZH_ALL
            return "".join(self._rng.choices(characters, k=self._rng.randint(2, 3)))
        first = self.invented(language)
        if self._rng.random() < 0.1:
            return f"{self._rng.choice(('New', 'Old', 'San') if language == 'en' else ('Новый', 'Старый'))} {first}"
        return first

    def _code(self, language: str) -> str:
        draw = self._rng.random()
        if draw < 0.25:
            return self._letters_and_digits()
        if draw < 0.4:
            return "".join(self._rng.choices(string.digits, k=self._rng.randint(3, 6)))
        if draw < 0.65:
            return self._some_han() if language == "zh" else self.invented(language).lower()
        word = self._rng.choice(_CODES[language].split())
        if language in _COLOURS and draw < 0.8:
            return f"{self._rng.choice(_COLOURS[language].split())}-{word}"
        return word

    def _some_han(self) -> str:
        """Two or three characters; rare ones have no piece of their own, and only their bytes can be copied."""
        if self._rng.random() < 0.6:
            return "".join(self._rng.choices(_ZH_ALL, k=self._rng.randint(2, 3)))
        return "".join(chr(self._rng.choice(_RARE_HAN)) for _ in range(self._rng.randint(1, 2)))

    def _letters_and_digits(self) -> str:
        letters = "".join(self._rng.choices(string.ascii_uppercase, k=self._rng.randint(1, 4)))
        joint = self._rng.choice(("", "-", "-"))
        return letters + joint + "".join(self._rng.choices(string.digits, k=self._rng.randint(1, 4)))

    def invented(self, language: str) -> str:
        """A word that nobody has used: every piece of the vocabulary must occur in some, or it could not be copied."""
        draw = self._rng.random()
        if draw < 0.45:
            return self._from_syllables(language)
        if draw < 0.85:
            return self._from_halves(language)
        letters = _RU_LETTERS if language == "ru" else string.ascii_lowercase
        return "".join(self._rng.choices(letters, k=self._rng.randint(2, 8))).capitalize()

    def _from_halves(self, language: str) -> str:
        """The beginning of one known word and the end of another."""
        known = _WORDS["ru" if language == "ru" else "en"]
        head, tail = self._rng.choice(known), self._rng.choice(known)
        return (head[: self._rng.randint(1, len(head))] + tail[self._rng.randint(0, len(tail) - 1) :]).capitalize()

    def _from_syllables(self, language: str) -> str:
        parts = (_RU_ONSETS, _RU_VOWELS, _RU_CODAS) if language == "ru" else (_ONSETS, _VOWELS, _CODAS)
        syllables = ("".join(map(self._rng.choice, parts)) for _ in range(self._rng.choice((1, 2, 2, 2, 3))))
        return "".join(syllables).capitalize()


def word_list() -> list[str]:
    """Every listed word, for the tokenizer."""
    lists = [*_NAMES.values(), *_CITIES.values(), *_CODES.values(), *_COLOURS.values()]
    return [word for words in lists for word in words.split()]


def han_characters() -> str:
    """Characters of Chinese names, places and words that should have a piece of their own."""
    return _ZH_ALL
