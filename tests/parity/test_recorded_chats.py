"""``chat`` and ``stream_chat`` give the recorded answers, histories and caches, with the published behaviour asked for."""

from __future__ import annotations

import copy

import pytest
import torch

from cluster.errors import ContextLengthExceededError, InvalidRequestError, ToolCallError
from tests.parity.recorded import load_json
from tests.parity.shell import arguments, conversations, shell, tokenizer, turns


def named(cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(("model", "history", "turn"), named(turns("chat")))
def test_chat_gives_the_recorded_answer_and_histories(model, history, turn):
    """Greedy and beam answers, scripted ones too; the caller's list gains the query, as recorded."""
    grown = [*history, {"role": turn["role"], "content": turn["query"]}]
    response, after = shell(model).chat(
        tokenizer(model), turn["query"], history, turn["role"], legacy=True, **arguments(turn)
    )
    assert response == turn["response"]
    assert after == turn["history_after"]
    assert history == turn.get("caller_list_after", grown) == grown


STOPPED = [
    case
    for case in turns("chat")
    if case[3].get("stopped_by") != "max_length" and "literal" not in case[0] and "length_cut" not in case[0]
]


@pytest.mark.parametrize(("model", "history", "turn"), named(STOPPED))
def test_chat_gives_the_recorded_answer_by_default_too(model, history, turn):
    """Where the model stopped by itself, the mended chat differs in the caller's list only, which it leaves alone."""
    before = copy.deepcopy(history)
    response, after = shell(model).chat(tokenizer(model), turn["query"], history, turn["role"], **arguments(turn))
    assert (response, after) == (turn["response"], turn["history_after"])
    assert history == before


CUT = [case for case in turns("chat") if case[3].get("stopped_by") == "max_length"]


@pytest.mark.parametrize(("model", "history", "turn"), named(CUT))
def test_chat_keeps_the_last_token_of_an_answer_that_was_cut(model, history, turn):
    """What the published code drops as if it were a stop id is a part of the answer."""
    response, _ = shell(model).chat(tokenizer(model), turn["query"], history, turn["role"], **arguments(turn))
    assert response == tokenizer(model).decode(turn["generated_ids"]).strip()


def stream(model, turn, history, **more):
    """Yields of a published stream, and whether a tool call ended it."""
    seen, failed = [], False
    given = arguments(turn) | more
    try:
        seen.extend(
            shell(model).stream_chat(tokenizer(model), turn["query"], history, turn["role"], legacy_cache=True, **given)
        )
    except ToolCallError:
        failed = True
    return seen, failed


def expected_yields(turn, before):
    asked = {"role": turn["role"], "content": turn["query"]}
    return [(response, [*before, asked, *added]) for _, response, added in turn["yields"]]


@pytest.mark.parametrize(("model", "history", "turn"), named(turns("stream_fresh")))
def test_fresh_streams_give_the_recorded_yields(model, history, turn):
    """Every response and every history, in order; none more."""
    before = copy.deepcopy(history)
    seen, failed = stream(model, turn, history)
    assert [tuple(item) for item in seen] == expected_yields(turn, before)
    assert failed == ("error" in turn)
    assert history == turn["caller_list_after"]


@pytest.mark.parametrize(("model", "case"), named(conversations("stream_cached")))
def test_cached_streams_give_the_recorded_yields_and_caches(model, case):
    """The cache of the last yield is passed on, and holds as much as recorded."""
    history, cache = copy.deepcopy(case["start_history"]), None
    for turn in case["turns"]:
        before = copy.deepcopy(history)
        seen, failed = stream(model, turn, history, past_key_values=cache, return_past_key_values=True)
        assert [tuple(item[:2]) for item in seen] == expected_yields(turn, before)
        assert failed == ("error" in turn)
        if seen:
            _, history, cache = seen[-1]
            assert cache.get_seq_length() == turn["cache_len_of_last_yield"]
        assert history == turn["history_after"]


LIMITS = load_json("limits_tiny")
QUERY = "Hello, how are you?"


@pytest.mark.parametrize(
    "name", [name for name in LIMITS if name.startswith(("stream_max", "chat_max")) and "ok" in LIMITS[name]]
)
def test_length_limits_cut_as_recorded(name):
    """A stream with no room gives one token and shows none; ``max_new_tokens`` decides where it is given."""
    method, argument, value = (
        name.split("_", 1)[0],
        name.split("_", 1)[1].rsplit("_", 1)[0],
        int(name.rsplit("_", 1)[1]),
    )
    given, expected = {argument: value, "do_sample": False, "legacy": True}, LIMITS[name]["ok"]
    if method == "stream":
        assert [response for response, _ in shell("tiny").stream_chat(tokenizer(), QUERY, **given)] == expected[
            "yields"
        ]
    else:
        response, history = shell("tiny").chat(tokenizer(), QUERY, **given)
        assert (response, history) == (expected["response"], expected["history"])


@pytest.mark.parametrize("name", [name for name in LIMITS if name.startswith("chat_max") and "error" in LIMITS[name]])
def test_chat_without_room_for_an_answer_is_refused(name):
    """As recorded, with an error that names the argument."""
    with pytest.raises(InvalidRequestError, match=r"The prompt has 14 tokens, and max_length 1[14]"):
        shell("tiny").chat(tokenizer(), QUERY, max_length=int(name.rsplit("_", 1)[1]), do_sample=False)


@pytest.mark.parametrize(
    ("name", "given"),
    [("bad_words", {"bad_words_ids": [[61]]}), ("min_new_tokens", {"min_new_tokens": 3})],
)
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_forbidding_ids_forces_the_recorded_control_character(name, given, method):
    """The published guard takes a forbidden id for a failure; by default it does not."""
    expected = LIMITS[f"{name}_{method}"]["ok"]
    given |= {"max_new_tokens": 8, "do_sample": False}
    model = shell("tiny")
    if method == "chat":
        assert model.chat(tokenizer(), QUERY, legacy=True, **given)[0] == expected["response"]
        assert "\x02" not in model.chat(tokenizer(), QUERY, **given)[0]
    else:
        published = [response for response, _ in model.stream_chat(tokenizer(), QUERY, legacy=True, **given)]
        assert published == expected["yields"]
        mended = [response for response, _ in model.stream_chat(tokenizer(), QUERY, **given)]
        assert not any("\x02" in response for response in mended)


@pytest.mark.parametrize("case", LIMITS["sampled_runs_cpu_seeded"], ids=lambda case: str(case["seed"]))
def test_a_seeded_draw_gives_the_recorded_answer(case):
    """Temperature, the hidden top-k of 50 and top-p filter as recorded, and one draw takes as much randomness."""
    torch.manual_seed(case["seed"])
    responses = [
        response for response, _ in shell("tiny").stream_chat(tokenizer(), case["query"], legacy=True, **case["args"])
    ]
    assert responses == case["responses"]


def test_the_callers_processors_are_left_alone():
    """The published code adds its guard to the caller's list at every call; nobody can depend on that."""
    processors = []
    shell("tiny").chat(tokenizer(), QUERY, logits_processor=processors, max_new_tokens=2)
    assert not processors
    assert LIMITS["caller_logits_processor_list_after_one_chat"] == ["InvalidScoreLogitsProcessor"]


def test_positions_beyond_the_context_are_refused_before_the_first_token():
    """The recorded crash in the middle is an error in front, for a prompt and for an answer that cannot fit."""
    assert LIMITS["positions_past_seq_length_20_stream"]["error"].startswith("IndexError")
    with pytest.raises(ContextLengthExceededError):
        next(iter(shell("tiny").stream_chat(tokenizer(), QUERY, max_new_tokens=1011)))
    with pytest.raises(ContextLengthExceededError):
        shell("tiny").chat(tokenizer(), "word " * 1100)
