"""How many replicas the Serve config asks for, and that another number is not another application."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from services.scaling import dispatcher_numbers, replica_numbers
from services.settings import read_settings


@pytest.mark.parametrize("options", [{"replicas": 3}, {"replicas": 3, "max_replicas": 3}])
def test_number_is_fixed_unless_more_are_allowed(options: dict[str, int]) -> None:
    """Without a larger maximum nothing scales."""
    assert replica_numbers(read_settings(**options)) == {"num_replicas": 3}


def test_bounds_and_delays_are_those_of_the_operator() -> None:
    """The policy is ours, and nothing sets the number back to where it began."""
    settings = read_settings(replicas=1, max_replicas=4, scale_up_delay_s=3, scale_down_delay_s=900)
    (scaling,) = replica_numbers(settings).values()
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 4)
    assert (scaling["upscale_delay_s"], scaling["downscale_delay_s"]) == (3, 900)
    assert scaling["policy"] == {"policy_function": "cluster.scaling.serve_policy:ReplicaScaling"}
    assert "initial_replicas" not in scaling
    assert scaling["look_back_period_s"] > scaling["metrics_interval_s"]


def test_dispatchers_follow_the_queue_where_more_are_allowed() -> None:
    """By a policy of their own, in seconds."""
    assert dispatcher_numbers(read_settings(dispatchers=2)) == {"num_replicas": 2}
    (scaling,) = dispatcher_numbers(read_settings(dispatchers=1, max_dispatchers=4)).values()
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 4)
    assert scaling["policy"] == {"policy_function": "services.dispatcher.serve_policy:DispatcherScaling"}
    assert scaling["upscale_delay_s"] < scaling["downscale_delay_s"]


VERSIONS = """
    import json, sys
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeApplicationSchema
    from services.args import AppArgs
    from services.launcher import serve_config
    from services.settings import read_settings

    ARGS = AppArgs(
        model_path="/m", model_name="m", redis_url="redis://r", device="cpu", dtype="float32", threads=1,
        kv_cache_bytes=None, max_num_seqs=64, max_batched_tokens=512, max_prefill_while_decoding=256, max_waiting=256,
        max_wait_s=30, max_named_tenants=20, history_ttl_s=1, longest_turn_s=1, drain_grace_s=1,
    )

    def version(**options):
        app = serve_config(read_settings(**options), ARGS).applications[0]
        kept = ServeApplicationSchema.model_validate_json(app.model_dump_json(exclude_unset=True))  # as Serve keeps it
        for deployment in kept.deployments:
            if isinstance(deployment.autoscaling_config, dict):
                AutoscalingConfig(**deployment.autoscaling_config)  # raises where a field is unknown
        assert get_app_code_version(app) == get_app_code_version(kept)
        return get_app_code_version(app)

    print(json.dumps([version(**options) for options in json.loads(sys.argv[1])]))
"""


def test_another_number_is_the_same_code() -> None:
    """Serve replaces every replica when the version of the code changes: for a number it must not."""
    scaling = {"replicas": 1, "max_replicas": 2}
    options = [
        {"replicas": 1},
        {"replicas": 3, "gateways": 2, "dispatchers": 3},
        scaling,
        {"replicas": 2, "max_replicas": 9, "gateways": 3},
        {**scaling, "scale_up_delay_s": 1, "scale_down_delay_s": 5},
    ]
    script = [sys.executable, "-c", textwrap.dedent(VERSIONS), json.dumps(options)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    fixed, *others_fixed, first, second, third = json.loads(done.stdout.splitlines()[-1])
    assert others_fixed == [fixed]
    assert first == second == third
