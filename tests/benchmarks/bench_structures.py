"""What structures cost: compiling one, and a row's mask per step. ``python -m tests.benchmarks.bench_structures MODEL``.

MODEL is a folder with a tokenizer; the output layer is taken to have ChatGLM3's 65,024 rows, whatever the tokenizer
has. Goal: 50 µs per row and step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import numpy as np

from cluster.engine.structure.compiler import StructureCompiler
from cluster.engine.structure.vocabulary import Vocabulary
from cluster.protocol import GenerateRequest, SamplingParams, Structure, StructureKind
from cluster.tokenizer.tokenizer import ChatGLM3Tokenizer

ROWS = 65_024
ROUNDS = 9
LINE = {"type": "object", "properties": {"sku": {"type": "string"}, "n": {"type": "integer"}}, "required": ["sku", "n"]}
ORDER = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "price": {"type": "number"},
        "status": {"enum": ["new", "paid", "shipped", "returned"]},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["id", "price", "status", "lines"],
}
SCHEMA = {
    "type": "object",
    "description": "A customer and what was ordered. " * 36,  # to 2 KB, as schemas that were made by hand have it
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 30}, "maxItems": 10},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
        "orders": {"type": "array", "items": ORDER},
        "notes": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "age", "email", "orders"],
    "$defs": {"line": LINE},
}
DOCUMENT = json.dumps(
    {
        "name": "Анна 中文 😀, with a rather long name",
        "age": 42,
        "email": "anna@example.org",
        "tags": ["one", "two"],
        "zip": "12345",
        "orders": [{"id": 12, "price": 1.5, "status": "paid", "lines": [{"sku": "abc", "n": 3}] * 3}],
        "notes": None,
    },
    ensure_ascii=False,
)
STRUCTURES = {
    "schema of 2 KB": (StructureKind.JSON_SCHEMA, json.dumps(SCHEMA), DOCUMENT),
    "any JSON object": (StructureKind.JSON_OBJECT, "", DOCUMENT),
    "expression": (StructureKind.REGEX, r"\d{4}-\d\d-\d\dT\d\d:\d\d", "2023-10-27T12:30"),
    "grammar": (StructureKind.GRAMMAR, 'root ::= "(" root ")" | [a-z]+', "((((word))))"),
}


def asking(kind: StructureKind, text: str, tenant: int) -> GenerateRequest:
    sampling = SamplingParams(max_new_tokens=1, structure=Structure(kind=kind, text=text))
    return GenerateRequest(attempt=1, request_id="", tenant=str(tenant), prompt_ids=[1], sampling=sampling)


def microseconds(values: list[float]) -> str:
    return f"{np.median(values) * 1e6:.1f} (p99 {np.percentile(values, 99) * 1e6:.1f})"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


async def measure(tokenizer: ChatGLM3Tokenizer) -> None:
    compiler = StructureCompiler(lambda: Vocabulary.of(tokenizer, ROWS))
    began = time.perf_counter()
    await compiler.guide(asking(StructureKind.REGEX, "a", 0))
    say(f"first structure of a replica: {time.perf_counter() - began:.2f} s")
    say("structure | compile, ms | kept, µs | fill, µs | accept, µs")
    for name, (kind, text, document) in STRUCTURES.items():
        compiles, kept, fills, accepts = [], [], [], []
        ids = [*tokenizer.encode_text("\n"), *tokenizer.encode_text(document)]
        words = np.empty(ROWS // 32, dtype=np.int32)
        for i in range(ROUNDS):
            for times in (compiles, kept):
                began = time.perf_counter()
                guide = await compiler.guide(asking(kind, text, i))
                times.append(time.perf_counter() - began)
            for token_id in ids:
                times = [time.perf_counter()]
                guide.fill(words)
                times.append(time.perf_counter())
                assert guide.accept(token_id)
                times.append(time.perf_counter())
                fills.append(times[1] - times[0])
                accepts.append(times[2] - times[1])
            assert guide.is_ended
        say(
            f"{name} | {np.median(compiles) * 1e3:.1f} | {microseconds(kept)} | "
            f"{microseconds(fills)} | {microseconds(accepts)}"
        )
    await compiler.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder with tokenizer.model")
    asyncio.run(measure(ChatGLM3Tokenizer.from_pretrained(parser.parse_args().model)))


if __name__ == "__main__":
    main()
