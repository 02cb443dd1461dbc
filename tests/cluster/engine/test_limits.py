"""What an engine can never serve is refused with a typed error."""

import math

import msgspec
import pytest

from cluster.engine.config import EngineConfig
from cluster.engine.limits import check
from cluster.errors import ContextLengthExceededError, InvalidRequestError
from cluster.protocol import GenerateRequest
from tests.fakes.engine_driver import make_request

CONFIG = EngineConfig(model_id="m", context_length=32, vocab_size=50, page_size=4)


def with_sampling(**changes: object) -> GenerateRequest:
    request = make_request(1, [1, 2])
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, **changes))


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (make_request(1, []), "prompt_ids"),
        (make_request(1, [50]), "prompt_ids"),
        (make_request(1, [-1]), "prompt_ids"),
        (make_request(1, [1], output_ids=[99]), "output_ids"),
        (make_request(1, [1], output_ids=[2, 3], max_new_tokens=1), "output_ids"),
        (with_sampling(max_new_tokens=-1), "max_tokens"),
        (with_sampling(temperature=-0.1), "temperature"),
        (with_sampling(temperature=math.nan), "temperature"),
        (with_sampling(temperature=math.inf), "temperature"),
        (with_sampling(top_p=0.0), "top_p"),
        (with_sampling(top_p=1.01), "top_p"),
        (with_sampling(top_p=math.nan), "top_p"),
        (with_sampling(top_k=-1), "top_k"),
        (with_sampling(top_k=2**31), "top_k"),
        (make_request(1, [1], priority=101), "priority"),
        (make_request(1, [1], priority=-101), "priority"),
        (make_request(1, [1], weight=0.0), "weight"),
        (make_request(1, [1], weight=math.inf), "weight"),
        (make_request(1, [1], weight=math.nan), "weight"),
        (make_request(1, [1], deadline_s=math.nan), "deadline_s"),
        (msgspec.structs.replace(make_request(1, [1]), keep_s=-1.0), "keep_s"),
        (msgspec.structs.replace(make_request(1, [1]), keep_s=math.inf), "keep_s"),
    ],
)
def test_wrong_field_is_named(request_: GenerateRequest, param: str) -> None:
    """A field out of range raises InvalidRequestError with the field's name."""
    with pytest.raises(InvalidRequestError) as caught:
        check(request_, CONFIG, num_pages=100)
    assert caught.value.param == param


def test_context_may_be_filled_exactly() -> None:
    """Prompt and answer may take every position of the context."""
    check(make_request(1, [1] * 20, max_new_tokens=12), CONFIG, num_pages=100)


def test_context_overflow_tells_both_numbers() -> None:
    """One token more than the context is refused with both counts."""
    with pytest.raises(ContextLengthExceededError) as caught:
        check(make_request(1, [1] * 20, max_new_tokens=13), CONFIG, num_pages=100)
    assert (caught.value.prompt_tokens, caught.value.max_tokens) == (20, 13)


def test_pool_may_be_filled_exactly() -> None:
    """The last sampled id needs no room in the cache."""
    check(make_request(1, [1] * 20, max_new_tokens=5), CONFIG, num_pages=7)


def test_request_larger_than_the_pool_is_refused() -> None:
    """A request that no eviction could make room for is refused, with both sizes."""
    with pytest.raises(InvalidRequestError, match=r"25 tokens.*holds 24"):
        check(make_request(1, [1] * 20, max_new_tokens=6), CONFIG, num_pages=7)
