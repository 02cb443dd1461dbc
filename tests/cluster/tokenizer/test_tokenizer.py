"""Text to ids and back on the committed tokenizer: round trips, injection, bad input, sharing."""

from __future__ import annotations

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from cluster.errors import CheckpointError, InvalidRequestError
from cluster.tokenizer.tokenizer import ROLES, ChatGLM3Tokenizer
from tests.cluster.tokenizer.recorded import PUBLISHED, TINY

SPECIAL_TEXTS = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<unk>",
    "<s>",
    "</s>",
    "<0x0A>",
    "<bos>",
    "<eos>",
    "<pad>",
]
SPECIAL_TEXTS += [f"<|{role}|>" for role in ROLES]

plain_texts = st.text(max_size=30)  # every character but lone surrogates
hostile_texts = st.lists(st.sampled_from([*SPECIAL_TEXTS, " ", "\n", "\x00", "\u2581"]) | plain_texts, max_size=8)
hostile_texts = hostile_texts.map("".join)


def test_specials_follow_the_last_piece(tokenizer):
    """A smaller model has the same specials in the same order, right behind its pieces."""
    assert tokenizer.num_pieces == 820
    assert tokenizer.vocab_size == 829
    assert (tokenizer.gmask_id, tokenizer.sop_id, tokenizer.eos_id, tokenizer.pad_id) == (821, 823, 2, 0)
    assert {role: tokenizer.role_id(role) for role in ROLES} == dict(zip(ROLES, range(825, 829), strict=True))
    assert tokenizer.stop_ids == (2, 826, 828)


@given(hostile_texts)
def test_no_text_becomes_a_special_id(tokenizer, text):
    """Whatever a text holds, its ids are ordinary pieces: no special, no begin, end or unknown id."""
    assert all(3 <= token_id < tokenizer.num_pieces for token_id in tokenizer.encode_text(text))


@given(hostile_texts.filter(lambda text: "\u2581" not in text))
def test_text_survives_the_round_trip(tokenizer, text):
    """Decoding the ids of a text gives the text back, blanks, NUL and rare characters included."""
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


@pytest.mark.parametrize("case", PUBLISHED["encode"], ids=lambda case: ascii(case["text"][:30]))
def test_recorded_text_decodes_as_with_the_published_model(tokenizer, case):
    """Pieces differ between models, the text they give back does not."""
    assert tokenizer.decode(tokenizer.encode_text(case["text"])) == case["decode_of_sp_encode"]


def test_block_character_reads_back_as_a_blank(tokenizer):
    """U+2581 is how SentencePiece writes a blank; a text that holds it cannot be told apart."""
    assert tokenizer.decode(tokenizer.encode_text("a\u2581b")) == "a b"


@pytest.mark.parametrize("role", ROLES)
def test_only_role_texts_are_parsed(tokenizer, role):
    """With role parsing a role's text is its id, the stretches around it are encoded apart, other specials are text."""
    ids = tokenizer.encode_with_roles(f"[gMASK]sop<|{role}|>\nhello")
    assert ids == [*tokenizer.encode_text("[gMASK]sop"), tokenizer.role_id(role), *tokenizer.encode_text("\nhello")]


def test_encode_puts_the_prefix_in_front(tokenizer):
    """``encode`` adds ``[gMASK] sop``, and a pair ends with ``</s>``."""
    a, b = tokenizer.encode_text("a"), tokenizer.encode_text("b")
    assert tokenizer.encode("a") == [821, 823, *a]
    assert tokenizer.encode("a", "b") == [821, 823, *a, *b, 2]


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff", "😀\ud83d!"])
def test_lone_surrogate_is_refused(tokenizer, text):
    """Half a surrogate pair is named with its place instead of being mangled."""
    with pytest.raises(InvalidRequestError, match=r"lone surrogate \(U\+D[0-9A-F]{3}\) at character \d"):
        tokenizer.encode_text(text)


@pytest.mark.parametrize(("ids", "text"), [
    ([827, 585, 13], "<|assistant|> \n"),
    ([585, 13], "\n"),
    ([585, 585], " "),
    ([0, 1, 2, 829, 65023, -1, -829], ""),
    ([243, 162, 155], "\ufffd" * 3),
    ([243, 162, 155, 131], "😀"),
    ([243, 162, 2, 155, 131], "\ufffd" * 4),
    ([], ""),
])  # fmt: skip
def test_ids_show_as_the_rules_say(tokenizer, ids, text):
    """Specials show their text, unknown ids nothing, broken bytes one replacement character each."""
    assert tokenizer.decode(ids) == text


@given(st.lists(st.lists(st.integers(1, 828), max_size=6), max_size=4), st.integers(0, 8))
def test_padding_is_on_the_left(tokenizer, batch, length):
    """Every padded row ends with the row, and mask and positions tell its tokens from the padding."""
    padded = tokenizer.pad(batch, length)
    width = max([length, *map(len, batch)])
    for row, ids, mask, positions in zip(batch, *dataclasses.astuple(padded), strict=True):
        blank = [0] * (width - len(row))
        assert ids == blank + row
        assert mask == blank + [1] * len(row)
        assert positions == blank + list(range(len(row)))


def test_unknown_names_are_refused(tokenizer):
    """A role or command that does not exist is the caller's error and is named."""
    with pytest.raises(InvalidRequestError, match="Unknown role 'tool'") as refused:
        tokenizer.role_id("tool")
    assert refused.value.param == "role"
    with pytest.raises(InvalidRequestError, match="'<sop>' is not a special token"):
        tokenizer.get_command("<sop>")


def test_folder_and_file_name_the_same_tokenizer(tokenizer):
    """A checkpoint folder and the path of its model file load alike."""
    assert ChatGLM3Tokenizer.from_pretrained(str(TINY / "tokenizer.model")).fingerprint == tokenizer.fingerprint


def test_fingerprint_is_that_of_the_model_bytes(tokenizer, tmp_path):
    """The fingerprint depends on the model's bytes, not on where they lie; other bytes have another."""
    model = (TINY / "tokenizer.model").read_bytes()
    assert ChatGLM3Tokenizer(model).fingerprint == tokenizer.fingerprint
    other = model.replace(b"tiny", b"TINY", 1)
    assert ChatGLM3Tokenizer(other).fingerprint != tokenizer.fingerprint


def test_pickled_copy_gives_the_same_ids(tokenizer):
    """A tokenizer crosses process borders as its model's bytes."""
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - bytes of our own
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode("Hello 你好 😀") == tokenizer.encode("Hello 你好 😀")


def test_threads_share_one_tokenizer(tokenizer):
    """Eight threads on one tokenizer read what one thread reads."""
    texts = [case["text"] for case in PUBLISHED["encode"]] * 4
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [tokenizer.encode(text) for text in texts]


def test_missing_model_names_the_file(tmp_path):
    """A folder without tokenizer.model is refused with the path that was looked for."""
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: No such file"):
        ChatGLM3Tokenizer.from_pretrained(tmp_path)


def test_folder_that_does_not_exist_is_named(tmp_path):
    """A wrong folder is named as it was given."""
    with pytest.raises(CheckpointError, match="nowhere: No such file"):
        ChatGLM3Tokenizer.from_pretrained(tmp_path / "nowhere")


MODEL = (TINY / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("damaged", [
    b"",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1018370\n",
    MODEL[:5000],
    MODEL.replace("▁the".encode(), b"\xff\xfe\xfdthe", 1),
], ids=["empty", "git-lfs-pointer", "cut", "pieces-not-utf8"])  # fmt: skip
def test_damaged_model_names_the_file(tmp_path, damaged):
    """Bytes that are no model are refused with the file's path and length."""
    (tmp_path / "tokenizer.model").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.model is not a SentencePiece model \({len(damaged)} bytes"):
        ChatGLM3Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(("settings", "fault"), [
    ({"pad_id": 3}, "without a pad piece"),
    ({"byte_fallback": False}, "must be the bytes"),
    ({"normalization_rule_name": "nmt_nfkc"}, "changes text"),
    ({"remove_extra_whitespaces": True}, "changes text"),
])  # fmt: skip
def test_model_of_another_family_is_refused(tmp_path, settings, fault):
    """A SentencePiece model with other rules would give wrong ids in silence, so it is not loaded."""
    kept = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to train on", "and some more of them"]),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=300 if (kept | settings)["byte_fallback"] else 30,
        minloglevel=2,
        hard_vocab_limit=False,
        **(kept | settings),
    )
    with pytest.raises(CheckpointError, match=f"not a tokenizer of ChatGLM3's kind: .*{fault}"):
        ChatGLM3Tokenizer.from_pretrained(tmp_path)


def test_model_with_control_pieces_of_its_own_is_refused():
    """A control piece that shows nothing would let ids vanish from an answer."""
    model = sentencepiece_model_pb2.ModelProto.FromString(MODEL)
    model.pieces[300].type = sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
    with pytest.raises(CheckpointError, match="control pieces of its own"):
        ChatGLM3Tokenizer(model.SerializeToString())
