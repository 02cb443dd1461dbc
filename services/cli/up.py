"""``chatglm-cluster up``: a whole cluster on this machine, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from services import ray_environment
from services.cli.options import StateDir
from services.interrupts import Interrupts
from services.preparation import prepare
from services.runs import new_run
from services.settings import ENV_PREFIX, ClusterSettings, read_settings
from services.state import Run, StateFolder


def _option(text: str, name: str) -> Any:
    return typer.Option(help=f"{text} [{ENV_PREFIX}{name.upper()}]", show_default=False)


def up(
    model: Annotated[
        Path | None,
        _option(
            "Checkpoint folder; none: the demo model that comes with the package; random: random weights.", "model"
        ),
    ] = None,
    model_name: Annotated[
        str | None, _option("Name clients ask for; default chatglm3, or chatglm3-demo.", "model_name")
    ] = None,
    replicas: Annotated[int | None, _option("Model replicas; default 2.", "replicas")] = None,
    max_replicas: Annotated[
        int | None, _option("Replicas follow the load, from --replicas up to this; default: fixed.", "max_replicas")
    ] = None,
    scale_up_delay_s: Annotated[
        float | None, _option("How long load must ask for more replicas; default 10.", "scale_up_delay_s")
    ] = None,
    scale_down_delay_s: Annotated[
        float | None, _option("How long load must ask for fewer replicas; default 600.", "scale_down_delay_s")
    ] = None,
    gateways: Annotated[int | None, _option("HTTP gateways; default 1.", "gateways")] = None,
    dispatchers: Annotated[
        int | None, _option("Processes that run background turns and adopt orphans; default 1.", "dispatchers")
    ] = None,
    max_dispatchers: Annotated[
        int | None,
        _option("Dispatchers follow the queue, from --dispatchers up to this; default: fixed.", "max_dispatchers"),
    ] = None,
    dispatcher_slots: Annotated[
        int | None, _option("Turns that a dispatcher carries out at once; default 64.", "dispatcher_slots")
    ] = None,
    max_queued: Annotated[
        int | None, _option("Background turns that a tenant may have in the queue; default 100000.", "max_queued")
    ] = None,
    port: Annotated[int | None, _option("HTTP port; default 8000.", "port")] = None,
    redis_url: Annotated[
        str | None,
        _option(
            "Redis or Valkey: redis://, redis+sentinel://, redis+cluster://, with TLS rediss…, or unix://; "
            "none: a private one in the state folder.",
            "redis_url",
        ),
    ] = None,
    redis_appendfsync: Annotated[
        str | None,
        _option("everysec or always: when the private one has its log on disk; default everysec.", "redis_appendfsync"),
    ] = None,
    address: Annotated[
        str | None, _option("A Ray cluster to join, host:port; none: Ray is started here.", "address")
    ] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda; default auto.", "device")] = None,
    dtype: Annotated[
        str | None,
        _option("auto, float32, bfloat16 or float16; auto: float32 on CPU, bfloat16 on CUDA.", "dtype"),
    ] = None,
    kv_cache_gib: Annotated[
        float | None,
        _option("KV pool per replica in GiB; default: two full contexts on CPU, the GPU's rest else.", "kv_cache_gib"),
    ] = None,
    threads: Annotated[
        int | None, _option("CPU threads per replica; default: its share of the cores.", "threads")
    ] = None,
    max_num_seqs: Annotated[int | None, _option("Turns in a replica's batch; default 64.", "max_num_seqs")] = None,
    max_batched_tokens: Annotated[
        int | None, _option("Tokens of one engine step; default 512.", "max_batched_tokens")
    ] = None,
    max_prefill_while_decoding: Annotated[
        int | None,
        _option("Prompt tokens of a step while answers run; default 256.", "max_prefill_while_decoding"),
    ] = None,
    max_waiting: Annotated[
        int | None, _option("Turns that may wait for a replica's batch; default 256.", "max_waiting")
    ] = None,
    max_wait_s: Annotated[
        float | None, _option("Predicted wait for the batch from which turns are refused; default 30.", "max_wait_s")
    ] = None,
    max_named_tenants: Annotated[
        int | None,
        _option("Tenants with a label of their own in /metrics; default 20, the rest are other.", "max_named_tenants"),
    ] = None,
    deterministic: Annotated[
        bool | None,
        _option(
            "Equal requests get equal answers to the last bit, whatever else runs; several times slower.",
            "deterministic",
        ),
    ] = None,
    engine_process: Annotated[
        bool | None,
        typer.Option(
            "--engine-process/--no-engine-process",
            help="Each engine in a process of its own; default: where steps are fast, on CUDA or in C. "
            f"[{ENV_PREFIX}ENGINE_PROCESS]",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        int | None, _option("8 or 4: bits to quantize the weights to when loaded; default: as stored.", "quantize")
    ] = None,
    lora: Annotated[Path | None, _option("Folder of a LoRA adapter (PEFT) to apply.", "lora")] = None,
    prefix: Annotated[Path | None, _option("Folder of a tuned prefix (P-Tuning v2) to apply.", "prefix")] = None,
    history_ttl_days: Annotated[
        float | None, _option("How long an idle conversation is kept; default 30.", "history_ttl_days")
    ] = None,
    max_conversation_items: Annotated[
        int | None,
        _option("Items that a conversation takes from its caller; default 10000.", "max_conversation_items"),
    ] = None,
    drain_grace_s: Annotated[
        int | None,
        _option("Turns of a replica being stopped go on elsewhere after so many seconds; default 30.", "drain_grace_s"),
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Start a cluster here and print how to talk to it. Ctrl-C stops everything.

    Every option can also be given as the environment variable in brackets.
    """
    settings = read_settings(
        model=model,
        model_name=model_name,
        replicas=replicas,
        max_replicas=max_replicas,
        scale_up_delay_s=scale_up_delay_s,
        scale_down_delay_s=scale_down_delay_s,
        gateways=gateways,
        dispatchers=dispatchers,
        max_dispatchers=max_dispatchers,
        dispatcher_slots=dispatcher_slots,
        max_queued=max_queued,
        port=port,
        redis_url=redis_url,
        redis_appendfsync=redis_appendfsync,
        address=address,
        device=device,
        dtype=dtype,
        kv_cache_gib=kv_cache_gib,
        threads=threads,
        max_num_seqs=max_num_seqs,
        max_batched_tokens=max_batched_tokens,
        max_prefill_while_decoding=max_prefill_while_decoding,
        max_waiting=max_waiting,
        max_wait_s=max_wait_s,
        max_named_tenants=max_named_tenants,
        deterministic=deterministic,
        engine_process=engine_process,
        quantize=quantize,
        lora=lora,
        prefix=prefix,
        history_ttl_days=history_ttl_days,
        max_conversation_items=max_conversation_items,
        drain_grace_s=drain_grace_s,
        state_dir=state_dir,
    )
    state = StateFolder(settings.state_dir)
    state.acquire()
    interrupts = Interrupts(lambda: typer.secho("\nstopping …", dim=True, err=True))
    interrupts.install()
    try:
        with new_run(state, settings.address, interrupts.held) as run:
            _serve(settings, state, run, interrupts)
    except KeyboardInterrupt:
        typer.secho("stopped", dim=True, err=True)
    finally:
        state.release()


def _serve(settings: ClusterSettings, state: StateFolder, run: Run, interrupts: Interrupts) -> None:
    say = _Progress()
    ray_environment.prepare(run)
    args = prepare(settings, state, say)
    from services.launcher import Launch, running_cluster  # noqa: PLC0415 - Ray reads its environment at import

    with running_cluster(Launch(settings, state, run, interrupts, say), args) as running:
        say(f"ready: {running.url}")
        typer.echo(_greeting(running.url, running.key, running.model))
        while True:
            signal.pause()


class _Progress:
    """Lines on stderr with the seconds since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def __call__(self, text: str) -> None:
        typer.secho(f"[{time.monotonic() - self._begin:5.1f} s] {text}", dim=True, err=True)


def _greeting(url: str, key: str, model: str) -> str:
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"""
  URL      {url}/v1
  API key  {key}

curl {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'

{sys.executable} -c "import httpx; print(httpx.post('{url}/v1/chat/completions', timeout=60, \
headers=dict(authorization='Bearer {key}'), json=dict(model='{model}', \
messages=[dict(role='user', content='Hello!')])).json()['choices'][0]['message']['content'])"

Ctrl-C stops everything.
"""
