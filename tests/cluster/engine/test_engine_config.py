"""The engine's configuration refuses what cannot work."""

from dataclasses import replace

import pytest

from cluster.engine.config import EngineConfig
from cluster.engine.engine import Engine
from cluster.errors import ConfigurationError
from tests.fakes.fake_runner import FakeRunner

VALID = EngineConfig(model_id="m", context_length=128, vocab_size=50)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("page_size", 0),
        ("num_pages", 1),
        ("context_length", 0),
        ("vocab_size", -1),
        ("max_num_seqs", 0),
        ("max_waiting", 0),
        ("max_prefill_while_decoding", 0),
        ("max_named_tenants", -1),
        ("max_wait_s", 0.0),
        ("max_wait_s", float("nan")),
        ("max_batched_tokens", 0),
        ("max_batched_tokens", 64),
    ],
)
def test_wrong_value_is_named(field: str, value: float) -> None:
    """A size that cannot work raises an error that names the field."""
    with pytest.raises(ConfigurationError, match=field):
        replace(VALID, **{field: value})


def test_page_size_must_be_the_runners() -> None:
    """A configuration whose pages differ from the runner's is refused."""
    with pytest.raises(ConfigurationError, match="page_size"):
        Engine(FakeRunner(page_size=4), VALID)


def test_pool_must_be_the_runners() -> None:
    """A number of pages that differs from the runner's is refused."""
    with pytest.raises(ConfigurationError, match="num_pages"):
        Engine(FakeRunner(num_pages=8, page_size=16), replace(VALID, num_pages=9))


def test_pool_without_pages_is_refused() -> None:
    """A runner that has only the null page cannot serve."""
    with pytest.raises(ConfigurationError, match="null page"):
        Engine(FakeRunner(num_pages=1, page_size=16), VALID)


def test_runners_pool_is_taken_when_none_is_given() -> None:
    """Without num_pages the runner's own number holds."""
    assert Engine(FakeRunner(num_pages=8, page_size=16), VALID).stats().pages_total == 7
