"""``ChatGLM3ForConditionalGeneration``: loading and saving, and ``generate`` with what it must refuse."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from cluster.errors import CheckpointError, ConfigurationError, InvalidRequestError
from cluster.model.config import CONFIG_FILE, read_fields
from cluster.model.generation import loading
from cluster.model.generation.chat import Chatting
from cluster.model.generation.config import CACHE, ChatGLMConfig, generation_config
from cluster.model.generation.fitting import check_cache, check_ids
from cluster.model.generation.guard import RowGuard
from cluster.model.generation.limits import positive, total_limit
from cluster.model.generation.options import listed
from cluster.model.loader import Wishes, prepare
from cluster.model.lora import LoraLinear, adapt_linears, merge_linears
from cluster.model.quantization import quantize_linears

_HARMLESS = {"trust_remote_code", "low_cpu_mem_usage", "local_files_only", "revision", "use_safetensors"}
# What transformers has given up or fetches code for, and what an assistant needs: argument -> values that are off.
_REFUSED: Final[dict[str, tuple[Any, ...]]] = {
    "assistant_model": (),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "custom_generate": (),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "num_beam_groups": (1,),
    "force_words_ids": (),
    "constraints": (),
    "stop_strings": (),
    "trust_remote_code": (False,),
}


class ChatGLM3ForConditionalGeneration(Chatting):
    """ChatGLM3 with everything its published class does; see docs/interface.md."""

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        device_map: loading.DeviceMap = None,
        max_memory: dict[Any, Any] | None = None,
        offload_folder: str | Path | None = None,
        config: ChatGLMConfig | None = None,
        quantize: int = 0,
        lora: str | Path | None = None,
        merge: bool | None = None,
        prefix: str | Path | None = None,
        **ignored: Any,
    ) -> ChatGLM3ForConditionalGeneration:
        """Load a checkpoint folder, ready for inference. No code is read from it.

        Args:
            path: the folder, with config.json and safetensors or ``.bin`` weights.
            dtype: "float32", "bfloat16", "float16" or torch's own; None or "auto" is what config.json says.
            torch_dtype: its older name.
            device_map: None (the CPU), a device, "auto", "balanced", "balanced_low_0", "sequential", or a map of module
                names to devices, "cpu" and "disk" included.
            max_memory: bytes (or "10GiB") by device, for the policies.
            offload_folder: where weights on "disk" are written.
            config: another configuration than the folder's (longer context, for one).
            quantize: 8 or 4: quantize the blocks' linears as they come in; 0: as they are stored.
            lora: a PEFT folder of a LoRA adapter.
            merge: whether the adapter is added to the weights, before they are quantized, or kept apart; None: added,
                unless the checkpoint is quantized itself.
            prefix: a folder that holds a tuned prefix alone (P-Tuning v2).
            ignored: ``trust_remote_code``, ``revision`` and others that say nothing here.

        Raises:
            CheckpointError: a file is missing, damaged or unsafe, a tensor is unknown, missing, misshapen or no number,
                or adapter or prefix are another model's.
            ConfigurationError: an argument is unknown or wrong; names it.
        """
        _refuse_unknown(ignored)
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is no folder here; download the checkpoint first, then name its folder.")
        if not isinstance(config, ChatGLMConfig | None):
            raise ConfigurationError(f"config is {type(config).__name__}; it must be a ChatGLMConfig.")
        own = ChatGLMConfig.of(read_fields(folder / CONFIG_FILE), str(folder)) if config is None else deepcopy(config)
        wishes = Wishes(quantize, _path(lora), merge, _path(prefix))
        kind = loading.read_dtype(torch_dtype if dtype is None else dtype, own.shape().torch_dtype)
        try:
            return cls._load(folder, own, wishes, kind, device_map, max_memory, _path(offload_folder))
        except BaseException as error:
            # Whoever keeps the error keeps every frame that it went through, and with them what was loaded so far.
            traceback.clear_frames(error.__traceback__)
            raise

    @classmethod
    def _load(
        cls,
        folder: Path,
        config: ChatGLMConfig,
        wishes: Wishes,
        dtype: torch.dtype,
        device_map: loading.DeviceMap,
        max_memory: dict[Any, Any] | None,
        offload_folder: Path | None,
    ) -> ChatGLM3ForConditionalGeneration:
        prepared = prepare(folder, wishes, config.shape())
        config.become(prepared.config)
        config.dtype = dtype
        model = cls(config, dtype)
        model.generation_config = generation_config(folder)
        places = loading.resolve_map(model, device_map, dtype, max_memory)
        loading.check_apart(prepared.apart, places)
        offload = loading.offload_folder(places, offload_folder)
        loading.fill(model, prepared, places, dtype, offload)
        adapt_linears(model, prepared.apart, dtype=dtype)
        loading.dispatch(model, places, offload)
        model.eval()
        return model

    def quantize(self, bits: int) -> ChatGLM3ForConditionalGeneration:
        """Quantize the blocks' linears, in place; ``save_pretrained`` then writes a quantized checkpoint.

        Args:
            bits: 8 or 4.

        Returns:
            The model itself.

        Raises:
            ConfigurationError: the number of bits is unknown, the weights are quantized already, or some of them are
                offloaded.
        """
        if self.shape.quantization_bit:
            raise ConfigurationError(
                f"The weights are quantized to {self.shape.quantization_bit} bits already; load the model anew to "
                "quantize it otherwise."
            )
        if any(parameter.is_meta for parameter in self.parameters()) or hasattr(self, "hf_device_map"):
            raise ConfigurationError("The model is spread over devices; quantize it as it loads, with quantize=…")
        quantize_linears(self.transformer.encoder, bits)
        self.shape = replace(self.shape, quantization_bit=bits)
        self.config.become(self.shape)
        return self

    def merge_lora(self) -> ChatGLM3ForConditionalGeneration:
        """Add an adapter that is kept apart to the weights, in place. Returns the model itself.

        Raises:
            CheckpointError: the weights are quantized, which nothing can be added to.
        """
        merge_linears(self)
        return self

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint folder in the published names: see transformers.

        Raises:
            ConfigurationError: a LoRA adapter is kept apart, for which those names have no place.
        """
        if any(isinstance(module, LoraLinear) for module in self.modules()):
            raise ConfigurationError(
                "A LoRA adapter is kept apart and would be lost; call merge_lora() first, or keep the base's and the "
                "adapter's folders."
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """Transformers' ``generate``: greedy, sampling and beams over a batch.

        Args:
            inputs: int64 [B, T], padded on the left; ``input_ids`` is the same.
            generation_config: a ``GenerationConfig``; ``model.generation_config`` where absent, which stops at
                ``</s>`` only and keeps the best 50 ids.
            kwargs: see transformers, and docs/interface.md for what is refused. A row whose logits are not finite
                goes on with id 5 and leaves the others alone.

        Returns:
            Ids int64 [B * returned, T + answer], the prompt included, or a ``ModelOutput``.

        Raises:
            ContextLengthExceededError: prompt and requested answer do not fit the model's context.
            InvalidRequestError: an argument is wrong, or asks for what is not supported.
        """
        for name, off in _REFUSED.items():
            if self._argument(name, generation_config, kwargs) not in (None, *off):
                raise InvalidRequestError(
                    f"{name} is not supported: assisted generation, contrastive search and others that transformers "
                    "keeps outside itself are not built for this model; leave it out.",
                    param=name,
                )
        for name in ("num_beams", "num_return_sequences"):
            if (count := self._argument(name, generation_config, kwargs)) is not None:
                positive(count, name)
        if "past_key_values" in kwargs and CACHE != "past_key_values":
            kwargs[CACHE] = kwargs.pop("past_key_values")
        if (ids := inputs if inputs is not None else kwargs.get("input_ids")) is not None:
            check_ids(ids)
            self._check_length(ids.shape[1], generation_config, kwargs)
        check_cache(kwargs.get(CACHE))
        kwargs["logits_processor"] = [*listed(kwargs.get("logits_processor"), "logits_processor"), RowGuard()]
        return super().generate(inputs, generation_config, **kwargs)

    def _check_length(self, prompt: int, config: Any, kwargs: Mapping[str, Any]) -> None:
        asked = {name: self._argument(name, config, kwargs) for name in ("max_length", "max_new_tokens")}
        total_limit(prompt, self.shape.seq_length, **asked)

    def _argument(self, name: str, config: Any, kwargs: Mapping[str, Any]) -> Any:
        """What ``generate`` will take for an argument: the call's, the given configuration's, the model's."""
        for holder in (kwargs.get(name), getattr(config, name, None)):
            if holder is not None:
                return holder
        return getattr(self.generation_config, name, None)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    for name in given.keys() - _HARMLESS:
        raise ConfigurationError(f"from_pretrained() knows no argument {name!r}.")
