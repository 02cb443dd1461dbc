"""Settings: options over environment over defaults, and one sentence for a wrong one."""

from __future__ import annotations

import traceback

import pytest

from cluster.errors import ConfigurationError
from services.settings import read_settings


def test_an_option_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment fills in what was not given."""
    monkeypatch.setenv("CHATGLM_REPLICAS", "5")
    monkeypatch.setenv("CHATGLM_GATEWAYS", "3")
    settings = read_settings(replicas=1, gateways=None)
    assert (settings.replicas, settings.gateways) == (1, 3)


def test_a_number_of_bits_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything is text; folders become absolute."""
    monkeypatch.setenv("CHATGLM_QUANTIZE", "4")
    monkeypatch.setenv("CHATGLM_LORA", "adapter")
    settings = read_settings()
    assert settings.quantize == 4
    assert settings.lora is not None
    assert settings.lora.is_absolute()


def test_a_joined_cluster_needs_a_store_that_all_its_machines_reach() -> None:
    """A socket on one machine is none."""
    joined = read_settings(address="10.0.0.1:6379", redis_url="redis://10.0.0.2/0")
    assert joined.address == "10.0.0.1:6379"
    for url in ("redis+sentinel://10.0.0.2,10.0.0.3/m", "redis+cluster://10.0.0.2"):
        assert read_settings(address="10.0.0.1:6379", redis_url=url).redis_url == url
    with pytest.raises(ConfigurationError, match="--redis-url"):
        read_settings(address="10.0.0.1:6379", redis_url="unix:///run/valkey.sock")


def test_a_wrong_url_of_the_store_is_named_but_not_repeated() -> None:
    """It may hold a password, and what stops a process ends in logs."""
    password = "hunter" + "2"  # in one word, it would be in the traceback as this line
    with pytest.raises(ConfigurationError, match=r"--redis-url .*CHATGLM_REDIS_URL.* must begin with") as wrong:
        read_settings(redis_url=f"http://user:{password}@x")
    assert password not in "".join(traceback.format_exception(wrong.value))
    assert password not in repr(read_settings(redis_url=f"redis://user:{password}@x"))


def test_how_another_server_writes_to_disk_is_not_decided_here() -> None:
    """The option is for the embedded server only."""
    with pytest.raises(ConfigurationError, match=r"--redis-appendfsync .*configuration of yours"):
        read_settings(redis_url="redis://x", redis_appendfsync="always")
    assert read_settings(redis_appendfsync="always").redis_appendfsync == "always"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("replicas", 0, "greater than or equal to 1"),
        ("max_conversation_items", 19, "greater than or equal to 20"),
        ("max_replicas", 1, "must be at least --replicas (2)"),
        ("scale_up_delay_s", -1, "greater than or equal to 0"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("dtype", "int3", "'float32'"),
        ("port", 70000, "less than or equal to 65535"),
        ("redis_appendfsync", "no", "'everysec' or 'always'"),
        ("address", "node-1", "host:port"),
        ("address", "10.0.0.1:6379", "--redis-url"),
        ("kv_cache_gib", 0, "greater than 0"),
        ("history_ttl_days", float("inf"), "finite number"),
        ("history_ttl_days", 0.000001, "greater than or equal to 0.001"),
        ("max_prefill_while_decoding", 0, "greater than or equal to 1"),
        ("max_waiting", 0, "greater than or equal to 1"),
        ("max_wait_s", 0, "greater than 0"),
        ("max_named_tenants", 1001, "less than or equal to 1000"),
        ("quantize", 5, "0, 4 or 8"),
        ("max_batched_tokens", 64, "must exceed --max-num-seqs (64)"),
    ],
)
def test_a_wrong_value_is_named_as_option_and_variable(name: str, value: object, words: str) -> None:
    """One sentence, with what is allowed and what was given."""
    with pytest.raises(ConfigurationError) as wrong:
        read_settings(**{name: value})
    message = str(wrong.value)
    assert f"--{name.replace('_', '-')}" in message
    assert f"CHATGLM_{name.upper()}" in message
    assert words in message
    assert repr(value) in message
