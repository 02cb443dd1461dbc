"""What people use with a transformers model works on the shell, or is refused clearly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from threading import Thread

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, StaticCache, StoppingCriteria, TextIteratorStreamer

from cluster.errors import CheckpointError, ConfigurationError, ContextLengthExceededError, InvalidRequestError
from cluster.model import ChatGLM3ForConditionalGeneration
from cluster.model.generation.config import CACHE
from tests.parity.recorded import DATA, assert_close
from tests.parity.shell import shell, tokenizer

GREEDY = {"do_sample": False, "max_new_tokens": 8}


def test_text_goes_through_tokenizer_model_and_streamer():
    """A streamer in a thread gives the text that the ids decode to."""
    inputs = tokenizer()("Hello", return_tensors="pt").to("cpu")
    streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, skip_special_tokens=True)
    running = Thread(target=lambda: shell("tiny").generate(**inputs, streamer=streamer, **GREEDY))
    running.start()
    streamed = "".join(streamer)
    running.join()
    whole = shell("tiny").generate(**inputs, **GREEDY)[0, inputs.input_ids.shape[1] :]
    assert streamed == tokenizer().decode(whole, skip_special_tokens=True)


def test_a_cache_is_continued():
    """``generate`` computes what the cache does not hold, and extends it."""
    ids = tokenizer()("a b c d e f", return_tensors="pt").input_ids
    whole = shell("tiny").generate(input_ids=ids, **GREEDY)
    cache = DynamicCache()
    shell("tiny")(ids[:, :5], past_key_values=cache)
    assert shell("tiny").generate(input_ids=ids, past_key_values=cache, **GREEDY).tolist() == whole.tolist()
    assert cache.get_seq_length() == whole.shape[1] - 1


def test_a_static_cache_is_refused():
    """Its empty rows would be attended to."""
    static = StaticCache(config=shell("tiny").config, max_cache_len=64)
    with pytest.raises(InvalidRequestError, match="Static caches"):
        shell("tiny").generate(input_ids=torch.tensor([[821, 823]]), past_key_values=static, **GREEDY)


class Never(StoppingCriteria):
    def __call__(self, input_ids, scores, **_):
        return torch.ones(len(input_ids), dtype=torch.bool)


def test_criteria_and_processors_are_called():
    """A criterion that holds at once leaves one token, which a processor has chosen."""
    ids = torch.tensor([[821, 823]])
    made = shell("tiny").generate(
        input_ids=ids,
        stopping_criteria=[Never()],
        logits_processor=[lambda _, scores: scores.index_fill(1, torch.tensor([300]), 1e4)],
        **GREEDY,
    )
    assert made.tolist() == [[821, 823, 300]]


@pytest.mark.parametrize(
    "given", [{"assistant_model": object()}, {"prompt_lookup_num_tokens": 3}, {"custom_generate": "x"}]
)
def test_assisted_generation_is_refused(given):
    """By name, before anything runs."""
    with pytest.raises(InvalidRequestError, match="not supported"):
        shell("tiny").generate(input_ids=torch.tensor([[821]]), **given)


def test_over_long_positions_are_refused():
    """By ``generate`` before it begins, and by ``forward``."""
    with pytest.raises(ContextLengthExceededError):
        shell("tiny").generate(input_ids=torch.zeros(1, 1000, dtype=torch.int64), max_new_tokens=25)
    with pytest.raises(ContextLengthExceededError):
        shell("tiny")(torch.tensor([[5]]), position_ids=torch.tensor([[1024]]))


def test_masks_and_positions_that_do_not_fit_are_refused():
    """With the name of what is wrong."""
    with pytest.raises(InvalidRequestError) as caught:
        shell("tiny")(
            torch.tensor([[5, 6]]), attention_mask=torch.tensor([[0, 1, 1]]), position_ids=torch.tensor([[0, 1]])
        )
    assert caught.value.param == "attention_mask"
    with pytest.raises(InvalidRequestError) as caught:
        shell("tiny")(torch.tensor([[5, 6]]), position_ids=torch.tensor([[0]]))
    assert caught.value.param == "position_ids"


def test_a_nan_row_leaves_its_batch_alone(monkeypatch):
    """One row with a broken embedding; the other's answer is its own."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny")
    model.transformer.embedding.word_embeddings.weight.data[700] = float("nan")
    ids = torch.tensor([[821, 823, 300], [821, 823, 700]])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), eos_token_id=[], **GREEDY | {"pad_token_id": 0}
    )
    alone = shell("tiny").generate(input_ids=ids[:1], eos_token_id=[], **GREEDY)
    assert made[0].tolist() == alone[0].tolist()
    assert set(made[1, 3:].tolist()) == {5}


def test_a_saved_model_has_the_published_names_and_loads_again(tmp_path):
    """Weights, configuration and tokenizer make the round trip."""
    shell("tiny").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(DATA / "tiny" / "model.safetensors").keys() - {
        "transformer.rotary_pos_emb.inv_freq"
    }
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "chatglm"
    again = ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.tensor([[821, 823, 300]])
    assert_close(again(ids).logits, shell("tiny")(ids).logits, 0.0)
    assert (tmp_path / "tokenizer.model").read_bytes() == (DATA / "tiny" / "tokenizer.model").read_bytes()


LAYERS = {f"transformer.encoder.layers.{layer}": "cpu" for layer in range(3)}
REST = dict.fromkeys(
    ("transformer.embedding", "transformer.encoder.final_layernorm", "transformer.output_layer"), "cpu"
)
DISK = REST | LAYERS | {"transformer.encoder.layers.1": "disk", "transformer.output_layer": "disk"}


@pytest.mark.parametrize("device_map", ["auto", "cpu", REST | LAYERS | {"lm_head": 0}, DISK, {"": "cpu"}])
def test_a_device_map_changes_nothing_in_the_answer(device_map, tmp_path):
    """A policy, a device, an explicit map with the published names, and weights on disk."""
    model = ChatGLM3ForConditionalGeneration.from_pretrained(
        DATA / "tiny", device_map=device_map, offload_folder=tmp_path, max_memory={"cpu": "1GiB"}
    )
    given = {"do_sample": False, "max_new_tokens": 6}
    assert model.chat(tokenizer(), "Hello", **given) == shell("tiny").chat(tokenizer(), "Hello", **given)
    on_disk = {name for name, parameter in model.named_parameters() if parameter.is_meta}
    assert bool(on_disk) == (device_map is DISK)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"dtype": ["float32"]}, "dtype is "),
        ({"config": {"seq_length": 2048}}, "config is dict"),
        ({"device_map": "everywhere"}, "device_map asks for 'everywhere'"),
        ({"device_map": {"transformer.embedding": "cpu"}}, "says nothing about"),
        ({"device_map": REST | LAYERS | {"transformer.nothing": "cpu"}}, "no module"),
        ({"device_map": DISK}, "offload_folder"),
        ({"divice_map": "auto"}, "divice_map"),
    ],
)
def test_a_wrong_setting_is_named(given, words):
    """Before any weight is read."""
    with pytest.raises(ConfigurationError, match=words):
        ChatGLM3ForConditionalGeneration.from_pretrained(DATA / "tiny", **given)


def test_a_name_that_is_no_folder_is_refused():
    """Nothing is downloaded."""
    with pytest.raises(CheckpointError, match="download"):
        ChatGLM3ForConditionalGeneration.from_pretrained("THUDM/chatglm3-6b")


def test_a_configuration_of_another_model_is_refused(tmp_path):
    """As what serves refuses it, though its tensors fit."""
    shutil.copytree(DATA / "tiny", tmp_path / "tiny")
    fields = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(fields | {"model_type": "glm"}))
    with pytest.raises(CheckpointError, match="model_type is 'glm'"):
        ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path / "tiny")


def test_transformers_names_in_a_configuration_say_nothing(tmp_path):
    """Some tools add the tokenizer's vocab_size, which is not the number of rows."""
    shutil.copytree(DATA / "tiny", tmp_path / "tiny")
    fields = json.loads((tmp_path / "tiny" / "config.json").read_text())
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(fields | {"vocab_size": 829, "num_hidden_layers": 9}))
    model = ChatGLM3ForConditionalGeneration.from_pretrained(tmp_path / "tiny")
    assert model.shape == shell("tiny").shape


def test_half_precision_loads_by_name():
    """The dtype of weights and logits."""
    assert shell("tiny", "bfloat16")(torch.tensor([[821]])).logits.dtype is torch.bfloat16
    assert shell("tiny", "bfloat16").dtype is torch.bfloat16


def test_labels_give_the_loss_of_each_next_id():
    """Masked places do not count."""
    ids = torch.tensor([[821, 823, 300, 301]])
    made = shell("tiny")(ids, labels=torch.tensor([[-100, -100, 300, -100]]))
    assert_close(made.loss, -made.logits[0, 1].log_softmax(-1)[300], 1e-5)


def test_a_cache_is_returned_unless_refused():
    """``use_cache=False`` keeps nothing; ``return_dict=False`` is a tuple."""
    assert shell("tiny")(torch.tensor([[821]]), use_cache=False).get(CACHE) is None
    assert isinstance(shell("tiny")(torch.tensor([[821]]), return_dict=False), tuple)


def test_importing_what_serves_imports_no_library():
    """The packages re-export lazily."""
    code = (
        "import sys, cluster.model, cluster.tokenizer, cluster.engine.runner, cluster.model.loader;"
        "from cluster.tokenizer import ChatGLM3Tokenizer;"
        "assert not {'transformers', 'accelerate'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
