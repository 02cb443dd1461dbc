"""What stands between the engine and a client costs, against bare uvicorn: tokens per second, latency, CPU, TTFT.

Run: ``python -m tests.benchmarks.bench_front [--plot docs/benchmarks/front.svg]``. A paced engine offers one id a row
and step, 50 steps a second. Ours is the whole cluster as ``up`` starts it (HAProxy, gateway, router, channel), with that
engine in place of the model; bare is uvicorn that emits the same bytes from the same engine in its own process. Both
run all the time and are loaded in turn by the same client; the tables show medians over the rounds. Exit status 1: a
promise below is not kept.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from cluster.demo import CHECKPOINT
from services.ports import unused_port
from tests.fakes.paced_engine import LOG_VARIABLE, STEPS_PER_S, Record, Sent
from tests.support.bare_server import neutral
from tests.support.cluster import MODEL, ClusterProcess
from tests.support.sse_load import Load, Streams, text_of
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SETTLE_S = 1.0
MIN_SHARE_OF_BARE = 0.75  # of the tokens per second that bare delivers
MAX_ADDED_TTFT_S = 0.005  # median, at few streams
EXTRA_EVENTS = 3  # the role before the tokens, the finish and [DONE] behind them
PARTS = {"Gateway": "gateway", "Replica": "replica", "haproxy": "HAProxy", "valkey": "Valkey"}


class PacedCluster(ClusterProcess):
    """A cluster over the paced engine."""

    command = (sys.executable, "-m", "tests.support.paced_command")


@dataclass(frozen=True)
class Server:
    """Something under load; ``processes`` finds all that belong to it."""

    name: str
    port: int
    key: str
    log: Path
    processes: Callable[[], list[psutil.Process]]


@dataclass
class Run:
    """What one load on one server brought.

    Attributes:
        tokens: delivered, each as an event of its own.
        seconds: from the first request to the last byte.
        latencies_s: of every token, from leaving the engine to reaching the client; sorted.
        ttft_s: of every request, without the engine's own share (from submission to its first token); sorted.
        cpu_s: of the server, by part.
        client_cpu_s: of the client.
    """

    tokens: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    client_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Delivered tokens per second."""
        return self.tokens / self.seconds

    @property
    def cpu_us(self) -> float:
        """µs of CPU per token, all processes of the server."""
        return sum(self.cpu_s.values()) / self.tokens * 1e6


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=500, help="of each of the many streams")
    parser.add_argument("--few", type=int, default=8, help="streams for the time to first token")
    parser.add_argument("--few-requests", type=int, default=8, help="of each of the few streams")
    parser.add_argument("--few-tokens", type=int, default=40)
    parser.add_argument("--gateways", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def main() -> int:
    """Measure, print Markdown, and judge."""
    options = parse()
    os.environ["PYTHONPATH"] = str(ROOT)  # Ray's workers import what is deployed
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder), options) as (ours, bare):
        runs = measure(ours, bare, options)
    print(many_table(runs["many"]))  # noqa: T201 -- the tables are the output
    print(few_table(runs["few"]))  # noqa: T201 -- as above
    if options.plot:
        draw(options.plot, runs)
    ours, bare = (_median(run.rate for run in runs["many"][name]) for name in ("ours", "bare"))
    added_s = _median(_at(run.ttft_s, 0.5) for run in runs["few"]["ours"])
    return int(ours < MIN_SHARE_OF_BARE * bare or added_s > MAX_ADDED_TTFT_S)


# -- the servers -------------------------------------------------------------------------------------------------------


@contextmanager
def servers(folder: Path, options: argparse.Namespace) -> Iterator[tuple[Server, Server]]:
    """Ours and bare; bare emits what ours was seen to emit."""
    os.environ[LOG_VARIABLE] = str(folder / "ours.log")
    cluster = PacedCluster(
        folder / "state", "--replicas", "1", "--gateways", str(options.gateways), "--max-num-seqs", str(options.streams)
    )
    try:
        cluster.start()
        ours = Server("ours", cluster.port, cluster.key, folder / "ours.log", cluster.processes)
        shape = _shape(ours, options.tokens, folder)
        with _bare(folder, shape) as bare:
            _check_same(neutral(shape), neutral(_shape(bare, options.tokens, folder)))
            yield ours, bare
    finally:
        cluster.stop()


def _check_same(ours: bytes, bare: bytes) -> None:
    for mine, other in zip(ours.split(b"\n\n"), bare.split(b"\n\n"), strict=True):
        assert mine == other, f"bare emits other bytes than ours: {other!r} in place of {mine!r}"


def _shape(server: Server, tokens: int, folder: Path) -> bytes:
    """One whole answer, as the client gets it."""
    load = Load(server.port, server.key, MODEL, streams=1, requests=1, tokens=tokens, keeps_bodies=True)
    (stream,) = _loaded(load, folder).streams
    return text_of(stream.body)


@contextmanager
def _bare(folder: Path, shape: bytes) -> Iterator[Server]:
    (folder / "shape").write_bytes(shape)
    os.environ[LOG_VARIABLE] = str(folder / "bare.log")
    port = unused_port()
    arguments = ["--model", str(CHECKPOINT), "--shape", str(folder / "shape"), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", "tests.support.bare_server", *arguments])
    try:
        watched = psutil.Process(process.pid)
        wait_until(lambda: any(c.status == "LISTEN" for c in watched.net_connections()), what="bare uvicorn listens")
        yield Server("bare", port, "", folder / "bare.log", lambda: [watched])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)


# -- the load ----------------------------------------------------------------------------------------------------------


def measure(ours: Server, bare: Server, options: argparse.Namespace) -> dict[str, dict[str, list[Run]]]:
    """All rounds, by kind of load and server."""
    runs: dict[str, dict[str, list[Run]]] = {"many": {}, "few": {}}
    shapes = {
        "few": {"streams": options.few, "requests": options.few_requests, "tokens": options.few_tokens, "pause_s": 0.2},
        "many": {"streams": options.streams, "requests": 1, "tokens": options.tokens},
    }
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for kind, shape in shapes.items():
                for server in (ours, bare)[:: 1 if number % 2 else -1]:
                    time.sleep(SETTLE_S)
                    load = Load(server.port, server.key, MODEL, **shape)
                    run = _run(server, load, Path(folder))
                    runs[kind].setdefault(server.name, []).append(run)
                    say = f"{kind}: {server.name}: {run.rate:.0f} tok/s, {run.cpu_us:.1f} µs a token"
                    print(f"round {number + 1}: {say}", file=sys.stderr)  # noqa: T201 -- progress
    return runs


def _run(server: Server, load: Load, folder: Path) -> Run:
    server.log.write_bytes(b"")
    before = _cpu_s(server)
    result = _loaded(load, folder)
    after = _cpu_s(server)
    sent = _sent(server.log, load.streams * load.requests)
    run = Run(client_cpu_s=result.cpu_s, cpu_s={part: after[part] - before.get(part, 0.0) for part in after})
    for stream in result.streams:
        _add(run, stream.arrivals, stream.sent, *sent[stream.request_id])
    begin = min(stream.sent for stream in result.streams)
    run.seconds = max(stream.arrivals[-1][0] for stream in result.streams) - begin
    run.latencies_s.sort()
    run.ttft_s.sort()
    return run


def _loaded(load: Load, folder: Path) -> Streams:
    """Run the client in a process of its own."""
    file = folder / "streams"
    arguments = [msgspec.json.encode(load).decode(), str(file)]
    subprocess.run([sys.executable, "-m", "tests.support.sse_load", *arguments], check=True, cwd=ROOT)
    return msgspec.msgpack.decode(file.read_bytes(), type=Streams)


def _sent(log: Path, requests: int) -> dict[str, tuple[Sent, list[float]]]:
    """What the engine wrote about each request: when, and the steps it was part of."""
    found: dict[str, tuple[Sent, list[float]]] = {}

    def read() -> bool:
        for line in log.read_bytes().rpartition(b"\n")[0].splitlines():  # the last one may be half written
            record = msgspec.json.decode(line, type=Record)
            found.update({name: (sent, record.steps) for name, sent in record.requests.items()})
        return len(found) == requests

    wait_until(read, what="the engine has written its log")
    return found


def _add(run: Run, arrivals: list[tuple[float, int]], asked: float, sent: Sent, steps: list[float]) -> None:
    times = [at for at, events in arrivals for _ in range(events)]
    assert len(times) == sent.ids + EXTRA_EVENTS, f"{len(times)} events for {sent.ids} tokens"
    tokens = times[1 : 1 + sent.ids]
    left = steps[sent.first_step : sent.first_step + sent.ids]
    run.tokens += sent.ids
    run.latencies_s += [came - went for came, went in zip(tokens, left, strict=True)]
    run.ttft_s.append((tokens[0] - asked) - (left[0] - sent.submitted))


def _cpu_s(server: Server) -> dict[str, float]:
    """CPU seconds so far, by part."""
    parts: dict[str, float] = {}
    for process in server.processes():
        times, name = process.cpu_times(), _part(" ".join(process.cmdline()))
        parts[name] = parts.get(name, 0.0) + times.user + times.system
    return parts


def _part(command: str) -> str:
    if "bare_server" in command:
        return "uvicorn"
    return next((part for mark, part in PARTS.items() if mark in command), "Ray")


# -- the tables --------------------------------------------------------------------------------------------------------


def many_table(runs: dict[str, list[Run]]) -> str:
    """Markdown: throughput, latency and CPU of many streams."""
    streams = len(runs["ours"][0].ttft_s)
    rates = {name: _median(run.rate for run in of) for name, of in runs.items()}
    rows = [
        f"\n{streams} streams, {streams * STEPS_PER_S:,.0f} tok/s offered:\n",
        "| server | delivered tok/s | ÷ bare | latency p50 ms | p99 ms | CPU µs a token | client's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in runs.items():
        p50, p99 = (_median(_at(run.latencies_s, share) for run in of) * 1e3 for share in (0.5, 0.99))
        client = _median(run.client_cpu_s / run.tokens * 1e6 for run in of)
        rows.append(
            f"| {name} | {rates[name]:,.0f} | {rates[name] / rates['bare']:.2f} | {p50:.1f} | {p99:.1f} "
            f"| {_median(run.cpu_us for run in of):.1f} | {client:.1f} |"
        )
    parts = {
        part: _median(run.cpu_s[part] / run.tokens * 1e6 for run in runs["ours"]) for part in runs["ours"][0].cpu_s
    }
    rows.append("\nOurs by process, µs a token: " + ", ".join(f"{part} {us:.1f}" for part, us in parts.items()))
    return "\n".join(rows)


def few_table(runs: dict[str, list[Run]]) -> str:
    """Markdown: time to first token of few streams, over and above the engine's."""
    rows = [
        "\nTime to first token at low load, without the engine's own:\n",
        "| server | p50 ms | p99 ms | later tokens p50 ms |",
        "|---|---|---|---|",
    ]
    for name, of in runs.items():
        p50, p99 = (_median(_at(run.ttft_s, share) for run in of) * 1e3 for share in (0.5, 0.99))
        later = _median(_at(run.latencies_s, 0.5) for run in of) * 1e3
        rows.append(f"| {name} | {p50:.2f} | {p99:.2f} | {later:.2f} |")
    return "\n".join(rows)


def _median(values: Iterator[float]) -> float:
    return statistics.median(values)


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def draw(file: Path, runs: dict[str, dict[str, list[Run]]]) -> None:
    """Distributions of latency under the many streams, and of the time to first token under the few."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": file.name}):
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        many, few = figure.subplots(1, 2)
        for name in ("ours", "bare"):
            _draw_shares(many, sorted(x for run in runs["many"][name] for x in run.latencies_s), name)
            _draw_shares(few, sorted(x for run in runs["few"][name] for x in run.ttft_s), name)
        many.set(xlabel="ms from engine to client", ylabel="share of tokens", xscale="log")
        few.set(xlabel="ms to the first token, without the engine's", ylabel="share of requests", xscale="log")
        many.legend()
        figure.savefig(file, metadata={"Date": None})


def _draw_shares(axes: object, ordered: list[float], name: str) -> None:
    shares = [i / 200 for i in range(200)]
    axes.plot([_at(ordered, share) * 1e3 for share in shares], shares, label=name)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
