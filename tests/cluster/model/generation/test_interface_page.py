"""The examples of docs/interface.md run, in order, as they stand; its translations say as much."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.generation.options import KNOWN
from cluster.tokenizer import ChatGLM3Tokenizer
from services.gateway.schemas.chat import ChatCompletionRequest
from services.gateway.schemas.responses import ResponseRequest
from tests.parity.recorded import DATA
from tests.parity.test_recorded_adapters import LORA, prefix_folder

ROOT = Path(__file__).parents[4]
DOCS = ROOT / "docs"
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`([^`]+)`")
PAGES = sorted(DOCS.glob("interface*.md"))
ENGLISH = DOCS / "interface.md"
TRANSLATIONS = [page for page in PAGES if page != ENGLISH]

# What transformers and our own decode loop call; the page names these methods, and says that they are not for programs.
INNER = {
    *("tokens_in", "open_cache", "fill_prefix", "run_rows", "run_blocks", "compute_logits", "pack_weights"),
    *("prepare_inputs_for_generation", "get_input_embeddings", "get_output_embeddings"),
}
REFUSED = {"apply_chat_template"}
HTTP = "## The same over HTTP"
TABLES = {  # heading -> the method whose defaults the table under it states
    "## Loading": "from_pretrained",
    "## `model.chat(": "chat",
    "## `model.stream_chat(": "stream_chat",
    "## `model.stream_generate(": "stream_generate",
    "## `model(input_ids": "forward",
    "## The tokenizer": "__call__",
}
CALLED_AS = {"forward": "model", "__call__": "tokenizer"}


def examples_of(page: Path) -> list[str]:
    """Python blocks, in order."""
    return _EXAMPLE.findall(page.read_text(encoding="utf-8"))


def code_of(page: Path) -> list[str]:
    """What the examples do, comments aside."""
    return [ast.dump(ast.parse(example)) for example in examples_of(page)]


def names_of(page: Path) -> set[str]:
    """Parameters, errors, calls and values that the text speaks of."""
    prose = _EXAMPLE.sub("", page.read_text(encoding="utf-8"))
    return {" ".join(name.split()) for name in _NAME.findall(prose)}


def outline_of(page: Path) -> list[str]:
    """How each line of a heading or table begins, the cells of a table's row counted."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [f"{line[:1]}{line.count(' | ')}" for line in lines if line.startswith(("#", "|"))]


def methods_of(kind: type) -> dict[str, inspect.Signature]:
    """Public methods that this project defines or redefines, as callers meet them."""
    names = {name for base in kind.__mro__ if base.__module__.startswith("cluster.") for name in vars(base)}
    public = (name for name in sorted(names) if not name.startswith("_") or name in CALLED_AS)
    held = {name: inspect.getattr_static(kind, name) for name in public}
    functions = {name: each.__func__ if isinstance(each, classmethod) else each for name, each in held.items()}
    return {name: inspect.signature(each) for name, each in functions.items() if inspect.isfunction(each)}


def named_parameters(signature: inspect.Signature) -> list[str]:
    """What callers can name, in order."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, held in signature.parameters.items() if held.kind in kinds and name not in {"self", "cls"}]


def arguments_in_examples(method: str, parameters: list[str]) -> set[str]:
    """Those that the examples pass to a method, by place or by name."""
    given: set[str] = set()
    for node in ast.walk(ast.parse("\n".join(examples_of(ENGLISH)))):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called == CALLED_AS.get(method, method):
                given.update(parameters[: len(node.args)])
                given.update(word.arg for word in node.keywords if word.arg)
    return given


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the rows of all tables under a heading of the English page."""
    text = ENGLISH.read_text(encoding="utf-8")
    section = text[text.index(f"\n{heading}") + 1 :].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def words_of(page: Path) -> set[str]:
    """Every identifier in what the page names."""
    return {word for name in names_of(page) for word in re.findall(r"\w+", name)}


@pytest.mark.parametrize("kind", [ChatGLM3ForConditionalGeneration, ChatGLM3Tokenizer])
def test_every_method_and_parameter_is_explained_and_shown(kind):
    """The page names each, and an example passes it; a new one fails here until it is written about."""
    words = words_of(ENGLISH)
    for method, signature in methods_of(kind).items():
        parameters = named_parameters(signature)
        assert method in words or method in CALLED_AS
        if method not in INNER | REFUSED:
            assert set(parameters) <= words
            assert set(parameters) <= arguments_in_examples(method, parameters), method


def test_every_attribute_of_the_tokenizer_is_named():
    """Those of the class and of an instance."""
    tokenizer = ChatGLM3Tokenizer.from_pretrained(DATA / "tiny")
    attributes = {name for name in dir(tokenizer) if not name.startswith("_")}
    assert attributes <= words_of(ENGLISH)


def test_every_option_of_a_stream_is_explained_and_shown():
    """What the decode loop understands by name."""
    passed = {
        node.arg for node in ast.walk(ast.parse("\n".join(examples_of(ENGLISH)))) if isinstance(node, ast.keyword)
    }
    assert words_of(ENGLISH) >= KNOWN
    assert passed >= KNOWN


@pytest.mark.parametrize(("heading", "method"), TABLES.items())
def test_a_default_is_stated_as_it_is(heading, method):
    """In the second cell of a parameter's row; the first word of that cell is Python's spelling of it."""
    kind = ChatGLM3Tokenizer if method == "__call__" else ChatGLM3ForConditionalGeneration
    held = methods_of(kind)[method].parameters
    rows = [(name, row[1].split(" ")[0].strip("`")) for row in rows_under(heading) for name in _NAME.findall(row[0])]
    stated = {name: default for name, default in rows if name in held}
    assert stated
    assert stated == {name: _spelt(held[name].default) for name in stated}


def _spelt(default: object) -> str:
    if default is inspect.Parameter.empty:
        return ""
    return f'"{default}"' if isinstance(default, str) else repr(default)


def test_every_parameter_of_generation_has_its_row_for_http():
    """The table tells the field that each maps to, or why it has none."""
    listed = {name for row in rows_under(HTTP) for name in re.findall(r"\w+", row[0])}
    methods = methods_of(ChatGLM3ForConditionalGeneration)
    for method in ("from_pretrained", "chat", "stream_chat", "stream_generate", "generate"):
        assert set(named_parameters(methods[method])) <= listed
    assert listed >= KNOWN


def test_every_field_that_the_page_maps_to_is_one_that_the_server_takes():
    """None of them is refused as not supported; ``role`` is a message's own."""
    fields = {name for row in rows_under(HTTP) for name in _NAME.findall(row[1])} - {"role"}
    taken: set[str] = set()
    for body in (ChatCompletionRequest, ResponseRequest):
        taken.update(name for name, field in body.model_fields.items() if field.annotation is not Any)
    assert fields
    assert fields <= taken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """On the small model; each example sees what those before it have made."""
    monkeypatch.chdir(tmp_path)
    examples = examples_of(page)
    assert len(examples) >= 8
    prefix = prefix_folder("ptuning_tiny", tmp_path / "prefix")
    names = {"path": str(DATA / "tiny"), "adapter": str(LORA), "prefix": str(prefix)}
    for example in examples:
        exec(compile(example, page.name, "exec"), names)  # noqa: S102  # our own page


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_says_what_the_english_page_says(page):
    """The same examples, headings, tables and names; only words differ."""
    assert code_of(page) == code_of(ENGLISH)
    assert outline_of(page) == outline_of(ENGLISH)
    assert names_of(page) == names_of(ENGLISH)


def test_the_page_is_there_in_three_languages():
    """Each page links the two others at its top."""
    assert [page.name for page in PAGES] == ["interface.md", "interface.ru.md", "interface.zh.md"]
    for page in PAGES:
        top = page.read_text(encoding="utf-8").splitlines()[0]
        assert [other.name for other in PAGES if f"]({other.name})" not in top] == [page.name]


def test_the_readmes_example_prints_what_it_says(monkeypatch, capsys):
    """On the demo model, from the repository's root; the comment is the whole output."""
    monkeypatch.chdir(ROOT)
    example = examples_of(ROOT / "README.md")[-1]
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102  # see above
    assert capsys.readouterr().out == example.splitlines()[-1].removeprefix("# ") + "\n"
