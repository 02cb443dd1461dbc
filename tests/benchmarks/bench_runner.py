"""Tokens per second of the model runner alone: no scheduler, no HTTP. Prints one JSON line per batch size.

    python tests/benchmarks/bench_runner.py CHECKPOINT --dtype bfloat16 --rows 1 8 --context 128 --repeat 5

Batch sizes are measured in turn within each repeat, so that a busy machine slows all of them alike; figures are
medians, with the best beside them. ``ratio`` is against the first batch size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from cluster.engine.deterministic import DeterministicRunner
from cluster.engine.native.runner import NativeRunner
from cluster.engine.plan import Runner
from cluster.engine.randomness import uniform
from cluster.engine.runner import ModelRunner
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.loader import load_model

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.stepping import Feed, Held, Stepper

PAGE_SIZE = 16


def decode_rate(runner: Runner, rows: int, args: argparse.Namespace) -> float:
    """Tokens per second of ``rows`` sequences that decode together from ``args.context`` tokens on."""
    stepper = Stepper(runner)
    helds = [Held() for _ in range(rows)]
    ids = [7 + row for row in range(rows)]
    for held in helds:
        stepper.step([Feed(held, list(range(5, 5 + args.context)))])
    began = time.perf_counter()
    for position in range(args.steps):
        feeds = [
            Feed(
                held,
                [token],
                temperature=args.temperature,
                top_p=args.top_p,
                top_k=args.top_k,
                uniform=uniform(row, position),
            )
            for row, (held, token) in enumerate(zip(helds, ids, strict=True))
        ]
        ids = stepper.step(feeds).token_ids.tolist()
    return rows * args.steps / (time.perf_counter() - began)


def prefill_rate(runner: Runner, tokens: int) -> float:
    """Prompt tokens per second of one cold prompt."""
    stepper = Stepper(runner)
    feed = Feed(Held(), list(range(5, 5 + tokens)))
    began = time.perf_counter()
    stepper.step([feed])
    return tokens / (time.perf_counter() - began)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--context", type=int, default=128, help="tokens in the cache before the measured steps")
    parser.add_argument("--runner", default="torch", choices=("torch", "native", "deterministic"))
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--prefill", type=int, default=512, help="length of the cold prompt")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.8)
    parser.add_argument("--top-k", type=int, default=50)
    return parser.parse_args()


def make_runner(args: argparse.Namespace, model: ChatGLM3Model, pages: int) -> Runner:
    """The runner that is measured."""
    if args.runner == "native":
        return NativeRunner(model, num_pages=pages, page_size=PAGE_SIZE, threads=args.threads)
    runner_class = DeterministicRunner if args.runner == "deterministic" else ModelRunner
    return runner_class(model, num_pages=pages, page_size=PAGE_SIZE)


def report(line: dict[str, float]) -> None:
    """One JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")


def main() -> None:
    """Measure and print."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    model = load_model(args.checkpoint, getattr(torch, args.dtype), args.device)
    pages = max(args.rows) * -(-(args.context + args.steps) // PAGE_SIZE) + args.prefill // PAGE_SIZE + 2
    runner = make_runner(args, model, pages)
    rates: dict[int, list[float]] = {rows: [] for rows in args.rows}
    prefills = []
    for _ in range(args.repeat):
        prefills.append(prefill_rate(runner, args.prefill))
        for rows, measured in rates.items():
            measured.append(decode_rate(runner, rows, args))
    base = statistics.median(rates[args.rows[0]])
    report({"prefill_tok_s": round(statistics.median(prefills)), "best": round(max(prefills))})
    for rows, measured in rates.items():
        middle = statistics.median(measured)
        line = {
            "rows": rows,
            "tok_s": round(middle, 1),
            "best": round(max(measured), 1),
            "ratio": round(middle / base, 2),
        }
        report(line)


if __name__ == "__main__":
    main()
