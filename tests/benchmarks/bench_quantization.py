"""Milliseconds of one linear, full and quantized, over numbers of rows; and how far each is from the exact product.

    python tests/benchmarks/bench_quantization.py --dtype bfloat16 --rows 1 8 64 512

Ways are measured in turn within each repeat; figures are medians. ``error`` is the largest distance from a float64
product of the same (dequantized, unrounded) weight, over that product's largest value.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor, nn

from cluster.model.packing import PackedLinear, can_pack
from cluster.model.quantization import QuantizedLinear


def ways(width: int, out: int, dtype: torch.dtype) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Name -> (the linear, its exact weight in float64)."""
    torch.manual_seed(0)
    full = nn.Linear(width, out, bias=False, dtype=dtype).requires_grad_(requires_grad=False)
    packed = PackedLinear(full) if can_pack(dtype, torch.device("cpu")) else full
    found: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {"full": (packed, full.weight.double())}
    for bits in (8, 4):
        plain = QuantizedLinear.of(full, bits)
        exact = plain.levels().double() * plain.weight_scale.double()[:, None]
        found[f"int{bits}, weight made"] = (partial(_by_full_weight, plain), exact)
        found[f"int{bits}"] = (plain, exact)
        if (fast := plain.with_kernel()) is not plain:
            found[f"int{bits}, own layout"] = (fast, exact)
    return found


def _by_full_weight(linear: QuantizedLinear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, linear.dequantized().to(x.dtype))


def timed(linear: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Milliseconds of one call."""
    began = time.perf_counter()
    linear(x)
    return (time.perf_counter() - began) * 1e3


@torch.inference_mode()
def main() -> None:
    """Measure and print one JSON line per number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--out", type=int, default=4096)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = ways(args.width, args.out, getattr(torch, args.dtype))
    for rows in args.rows:
        x = torch.randn(rows, args.width).to(getattr(torch, args.dtype))
        times: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(args.repeat):
            for name, (linear, _) in made.items():
                times[name].append(timed(linear, x))
        line: dict[str, object] = {"rows": rows}
        for name, (linear, weight) in made.items():
            exact = nn.functional.linear(x.double(), weight)
            error = float((linear(x).double() - exact).abs().max() / exact.abs().max())
            line[name] = {"ms": round(statistics.median(times[name]), 2), "error": float(f"{error:.1e}")}
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
