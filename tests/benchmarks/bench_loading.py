"""Peak memory and time of loading a checkpoint, each way in a process of its own. Prints one JSON line per way.

    python tests/benchmarks/bench_loading.py CHECKPOINT --dtype bfloat16 --quantize 0 8 4

``peak_mib`` is the process's largest resident set, of which ``base_mib`` is Python and its libraries before loading;
``over_mib`` is what the peak has over base and model together. A mapped file counts while it is open, though the kernel
can take it back at any time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from cluster.model.files import find_shards
from cluster.model.loader import load_model

MIB = 2**20


def peak_mib() -> float:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def measure(checkpoint: Path, dtype: str, quantize: int) -> dict[str, float]:
    """Load once, in this process."""
    base, began = peak_mib(), time.perf_counter()
    model = load_model(checkpoint, getattr(torch, dtype), "cpu", quantize=quantize)
    seconds = time.perf_counter() - began
    held = sum(tensor.nbytes for tensor in model.parameters()) / MIB
    largest = max(path.stat().st_size for path in find_shards(checkpoint)) / MIB
    return {
        "quantize": quantize,
        "seconds": round(seconds, 1),
        "base_mib": round(base),
        "model_mib": round(held),
        "largest_shard_mib": round(largest),
        "peak_mib": round(peak_mib()),
        "over_mib": round(peak_mib() - base - held),
    }


def main() -> None:
    """Measure every way in a child, or one way here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--quantize", type=int, nargs="+", default=[0, 8, 4])
    parser.add_argument("--here", action="store_true", help="measure the first way in this process")
    args = parser.parse_args()
    if args.here:
        sys.stdout.write(json.dumps(measure(args.checkpoint, args.dtype, args.quantize[0])) + "\n")
        return
    for bits in args.quantize:
        command = [sys.executable, __file__, str(args.checkpoint), "--dtype", args.dtype, "--quantize", str(bits)]
        subprocess.run([*command, "--here"], check=True)


if __name__ == "__main__":
    main()
