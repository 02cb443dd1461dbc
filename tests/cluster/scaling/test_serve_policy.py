"""The policy as Serve's controller meets it: found by name, light, and fed by what replicas record."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from cluster.engine.client import EngineStats
from cluster.replica.load import figures
from cluster.scaling.policy import Load
from cluster.scaling.serve_policy import ReplicaScaling, loads

NAME = "cluster.scaling.serve_policy:ReplicaScaling"


def series(*values: float) -> list[SimpleNamespace]:
    return [SimpleNamespace(timestamp=float(i), value=value) for i, value in enumerate(values)]


def metrics(**of_replicas: list[Load]) -> dict[str, dict[str, list[SimpleNamespace]]]:
    """Series by figure and replica, as the controller keeps them."""
    return {
        name: {replica: series(*(asdict(load)[name] for load in history)) for replica, history in of_replicas.items()}
        for name in asdict(Load(0, 0, 0, 1, 0))
    }


def context(
    raw_metrics: dict[str, object] | None, *, target: int = 1, least: int = 1, most: int = 4
) -> SimpleNamespace:
    return SimpleNamespace(
        raw_metrics=raw_metrics,
        target_num_replicas=target,
        capacity_adjusted_min_replicas=least,
        capacity_adjusted_max_replicas=most,
    )


def in_a_new_process(code: str) -> str:
    """What a script prints; Serve warns at import, and is nothing that this process should hold."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_policy_scales_a_busy_replica() -> None:
    """A full batch and a queue ask for a second replica."""
    busy = Load(running=64, waiting=10, waiting_tokens=0, capacity=64, prefill_rate=0)
    assert ReplicaScaling()(context(metrics(a=[busy]))) == (2, {})


def test_serve_finds_and_makes_the_policy() -> None:
    """By its import path, serialized and back, without arguments; Serve's own delay then holds its wish back."""
    decisions = in_a_new_process(f"""
        from ray.serve._private.autoscaling_state import _resolve_policy_callable
        from ray.serve._private.common import TimeStampedValue
        from ray.serve.autoscaling_policy import _apply_autoscaling_config
        from ray.serve.config import AutoscalingConfig, AutoscalingContext

        figures = dict(running=64, waiting=10, waiting_tokens=0, capacity=64, prefill_rate=0)
        for delay_s in (0, 600):
            config = AutoscalingConfig(
                min_replicas=1, max_replicas=4, upscale_delay_s=delay_s, policy=dict(policy_function="{NAME}")
            )
            context = AutoscalingContext(
                deployment_id=None, deployment_name="", app_name="", current_num_replicas=1, target_num_replicas=1,
                running_replicas=["a"], total_num_requests=0, total_queued_requests=0, aggregated_metrics=None,
                raw_metrics=dict((name, dict(a=[TimeStampedValue(0, value)])) for name, value in figures.items()),
                capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=4, policy_state=dict(),
                last_scale_up_time=None, last_scale_down_time=None, current_time=0, config=config,
            )
            print(_apply_autoscaling_config(_resolve_policy_callable(config.policy))(context)[0])
    """)
    assert decisions.split() == ["2", "1"]


def test_controller_loads_nothing_for_it() -> None:
    """All that the policy imports is its own."""
    new = in_a_new_process("""
        import sys, dataclasses, math, typing
        before = set(sys.modules)
        import cluster.scaling.serve_policy
        print(*sorted(set(sys.modules) - before))
    """)
    assert new.split() == ["cluster", "cluster.scaling", "cluster.scaling.policy", "cluster.scaling.serve_policy"]


def test_figures_are_meaned_over_the_period() -> None:
    """A moment's peak does not scale."""
    quiet = Load(running=10, waiting=0, waiting_tokens=0, capacity=64, prefill_rate=500)
    peak = Load(running=60, waiting=0, waiting_tokens=100, capacity=64, prefill_rate=500)
    assert loads(metrics(a=[quiet, quiet, quiet, peak])) == [Load(22.5, 0, 25, 64, 500)]


def test_replica_that_has_not_reported_all_figures_does_not_count() -> None:
    """A replica counts from its first whole report on."""
    load = Load(1, 2, 3, 4, 5)
    whole = metrics(a=[load], b=[load])
    whole["capacity"]["b"] = []
    assert loads(whole) == [load]
    del whole["capacity"]
    assert loads(whole) == []


@pytest.mark.parametrize("reported", [None, {}, {"ongoing_requests": {"a": series(3)}}])
def test_nothing_changes_before_the_first_report(reported: dict[str, object] | None) -> None:
    """Serve asks before anything was recorded, and keeps figures of its own among ours."""
    assert ReplicaScaling()(context(reported, target=2)) == (2, {})


def test_replica_reports_its_load() -> None:
    """The engine's levels become a load; prompts that the cache holds are not counted, nor a token per decode."""
    stats = EngineStats(running=10, waiting=3, waiting_tokens=410, prefill_rate=200.0, computed_share=0.25)
    assert Load(**figures(stats, capacity=64)) == Load(10, 3, 100.0, 64, 200.0)
    assert all(isinstance(value, int | float) for value in figures(EngineStats(), capacity=8).values())
