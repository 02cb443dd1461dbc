"""Loads a published checkpoint into the model, one tensor at a time.

Every name and shape is checked against the configuration before the first byte of data is read, so a wrong checkpoint
is refused within moments whatever its size. Host memory beyond the model itself stays at about one file's worth: a
weight is adapted and quantized as it comes in, and after an error nothing that was loaded is kept.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cluster.errors import CheckpointError, ConfigurationError
from cluster.model.chatglm import ChatGLM3Model
from cluster.model.config import ChatGLM3Config, load_config, odd_widths
from cluster.model.files import TensorInfo, find_shards, open_shard, read_infos
from cluster.model.lora import Pair, adapt_linears, load_lora
from cluster.model.prefix_checkpoint import PREFIX_NAME, read_prefix, with_prefix
from cluster.model.quantization import QuantizedLinear, check_bits

# A saved buffer of the original release: it can be recomputed, and ignores rope_ratio.
IGNORED = frozenset({"transformer.rotary_pos_emb.inv_freq"})


def load_model(
    path: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    quantize: int = 0,
    lora: str | Path | None = None,
    merge: bool | None = None,
    prefix: str | Path | None = None,
) -> ChatGLM3Model:
    """The model of a checkpoint folder, in ``dtype`` on ``device``, ready for inference.

    Args:
        path: the folder.
        dtype: of weights and activations; what is stored as quantized levels and scales stays so.
        device: where the model goes.
        quantize: 8 or 4: bits to quantize the blocks' linears to; 0: as they are stored.
        lora: a PEFT folder of a LoRA adapter to apply.
        merge: whether the adapter is added to the weights (before they are quantized) or kept apart; None: added
            unless the checkpoint itself is quantized, where nothing can be.
        prefix: a folder that holds the tensors of a prefix encoder, for a base model that has none.

    Raises:
        CheckpointError: a file is missing, truncated or unsafe, a tensor is unknown, missing, misshapen or not finite,
            or an adapter does not fit; the message names the file and the tensor.
        ConfigurationError: the weights cannot be quantized as asked, or not be merged with.
    """
    try:
        return _load(Path(path), dtype, torch.device(device), Wishes(quantize, _path(lora), merge, _path(prefix)))
    except BaseException as error:
        # Whoever keeps the error keeps every frame that it went through, and with them what was loaded so far.
        traceback.clear_frames(error.__traceback__)
        raise


def check_load(
    path: str | Path, *, quantize: int = 0, lora: str | Path | None = None, prefix: str | Path | None = None
) -> ChatGLM3Config:
    """Raise what ``load_model`` raises before it reads a checkpoint's weights. Reads headers and adapters.

    Returns:
        The configuration of the model that it would load.
    """
    return prepare(Path(path), Wishes(quantize, _path(lora), None, _path(prefix))).config


@dataclass(frozen=True, slots=True)
class Wishes:
    """The arguments of ``load_model`` that change the model."""

    quantize: int = 0
    lora: Path | None = None
    merge: bool | None = None
    prefix: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is checked and known before weights are read.

    Attributes:
        config: of the finished model.
        shards: weight files, in reading order.
        merged: adapters that are added to the weights as they come in.
        apart: adapters that are kept beside them.
        rows: tensors of a prefix's encoder, float32 on CPU.
    """

    config: ChatGLM3Config
    shards: list[Path]
    merged: dict[str, Pair]
    apart: dict[str, Pair]
    rows: dict[str, Tensor]


def prepare(folder: Path, wishes: Wishes, stored: ChatGLM3Config | None = None) -> Prepared:
    """Check everything that can be checked without reading weights.

    Args:
        folder: the checkpoint.
        wishes: what is to become of it.
        stored: what its weights are; None: what its config.json says.

    Raises:
        CheckpointError: see ``load_model``.
        ConfigurationError: see ``load_model``.
    """
    stored = load_config(folder) if stored is None else stored
    shards = find_shards(folder)
    check_tensors(read_infos(shards), stored, folder)
    is_merged = _is_merged(stored, wishes, folder)
    pairs = load_lora(wishes.lora, linear_shapes(stored)) if wishes.lora else {}
    config = _quantized(stored, wishes.quantize, folder)
    rows = read_prefix(wishes.prefix, config) if wishes.prefix else {}
    merged, apart = (pairs, {}) if is_merged else ({}, pairs)
    rows = {name: tensor.float() for name, tensor in rows.items()}
    return Prepared(with_prefix(config, rows), shards, merged, apart, rows)


def _load(folder: Path, dtype: torch.dtype, device: torch.device, wishes: Wishes) -> ChatGLM3Model:
    prepared = prepare(folder, wishes)
    model = ChatGLM3Model(prepared.config, dtype=dtype, device=device)
    for name, tensor in ready_tensors(prepared, model, dtype, lambda _: device):
        assign(model, name, tensor)
    adapt_linears(model, prepared.apart, dtype=dtype)
    return model.eval()


def _is_merged(stored: ChatGLM3Config, wishes: Wishes, folder: Path) -> bool:
    if wishes.merge is None:
        return not stored.quantization_bit
    if wishes.merge and wishes.lora and stored.quantization_bit:
        raise ConfigurationError(
            f"{folder} holds quantized weights, which no adapter can be merged into; keep it apart (merge=False)."
        )
    return wishes.merge


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def expected_tensors(config: ChatGLM3Config, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Name -> a tensor without storage, for all that a checkpoint of this configuration must hold."""
    shape_only = ChatGLM3Model(config, dtype=dtype, device=torch.device("meta"))
    return {name: parameter.data for name, parameter in shape_only.named_parameters()}


def expected_shapes(config: ChatGLM3Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint of this configuration must hold."""
    return {name: tuple(tensor.shape) for name, tensor in expected_tensors(config).items()}


def linear_shapes(config: ChatGLM3Config) -> dict[str, tuple[int, ...]]:
    """Name -> [out, in] of the linears that an adapter can be for."""
    plain = replace(config, quantization_bit=0, pre_seq_len=0, prefix_projection=False)
    model = ChatGLM3Model(plain, dtype=torch.float32, device=torch.device("meta"))
    linears = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {name: (linear.out_features, linear.in_features) for name, linear in linears}


def weight_bytes(config: ChatGLM3Config, dtype: torch.dtype) -> int:
    """Memory of a loaded model's weights, quantized ones by what their levels and scales take, a prefix included."""
    return sum(tensor.nbytes for tensor in expected_tensors(config, dtype).values())


def check_tensors(infos: Mapping[str, TensorInfo], config: ChatGLM3Config, folder: Path) -> None:
    """Raises CheckpointError naming a tensor that is unknown, missing, misshapen or of a wrong kind of numbers."""
    wanted = expected_tensors(config)
    if missing := sorted(wanted.keys() - infos.keys()):
        raise CheckpointError(f"{folder}: tensor {missing[0]!r} is missing{_and_more(missing)}.{_hint(missing)}")
    for name, info in infos.items():
        if name not in IGNORED:
            _check_tensor(name, info, wanted.get(name))


def require_finite(tensor: Tensor, name: str, path: Path) -> None:
    """Raise CheckpointError when a weight holds NaN or infinity. Integers always pass."""
    if tensor.is_floating_point() and tensor.numel():
        least, most = tensor.aminmax()  # both are NaN where any element is
        if not (least.isfinite() and most.isfinite()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{path}: tensor {name!r} holds NaN or infinity in {kind}; the file is damaged, or its values are too "
                "large for this dtype."
            )


def _check_tensor(name: str, info: TensorInfo, wanted: Tensor | None) -> None:
    if wanted is None:
        raise CheckpointError(f"{info.file}: tensor {name!r} is unknown to a ChatGLM3 of this configuration.")
    if info.shape != tuple(wanted.shape):
        raise CheckpointError(
            f"{info.file}: tensor {name!r} has shape {list(info.shape)}; config.json asks for {list(wanted.shape)}."
        )
    if wanted.dtype is torch.int8 and info.dtype is not torch.int8:
        raise CheckpointError(f"{info.file}: tensor {name!r} is not int8, as config.json's quantization_bit asks for.")
    if wanted.dtype is not torch.int8 and info.dtype is torch.int8:
        raise CheckpointError(
            f"{info.file}: tensor {name!r} is int8, but config.json's quantization_bit does not say that the weights "
            "are quantized."
        )
    if wanted.dtype is not torch.int8 and (info.dtype is None or not info.dtype.is_floating_point):
        raise CheckpointError(f"{info.file}: tensor {name!r} is not float16, bfloat16 or float32.")


def _and_more(names: list[str]) -> str:
    return f", and {len(names) - 1} more" if len(names) > 1 else ""


def _hint(missing: list[str]) -> str:
    if all(name.startswith(PREFIX_NAME) for name in missing):
        return (
            " This may be a base model: remove pre_seq_len from its config.json and apply the prefix's folder over it."
        )
    return ""


def _quantized(config: ChatGLM3Config, bits: int, folder: Path) -> ChatGLM3Config:
    if not bits:
        return config
    check_bits(bits)
    if config.quantization_bit not in {0, bits}:
        raise ConfigurationError(
            f"{folder} holds weights quantized to {config.quantization_bit} bits, which cannot be quantized to {bits}."
        )
    if bits == 4 and (odd := odd_widths(config)):
        raise ConfigurationError(
            f"{folder}: {odd[0]} is odd, but 4 bits need an even number of columns in every weight; quantize to 8."
        )
    return replace(config, quantization_bit=bits)


def ready_tensors(
    prepared: Prepared, model: nn.Module, dtype: torch.dtype, place: Callable[[str], torch.device]
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the model by its name, one at a time: converted, finite, adapted, quantized, on its device.

    Args:
        prepared: what ``prepare`` found.
        model: has the prepared shape; whether a linear is quantized is asked of it.
        dtype: of weights and activations.
        place: the device for a name.

    Raises:
        CheckpointError: a tensor is not finite; names the file.
    """
    for path in prepared.shards:
        with open_shard(path) as shard:
            for name in sorted(shard.infos().keys() - IGNORED):
                stored = shard.tensor(name)
                # copy: a mapped file must not stay the model's memory, where a later change of it would reach.
                tensor = stored.to(place(name), _dtype_of(name, stored, dtype), copy=True)
                require_finite(tensor, name, path)
                yield from _finished(name, tensor, model, prepared.merged)
    for name, tensor in prepared.rows.items():
        yield name, tensor.to(place(name))


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a parameter its value."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))


def _finished(name: str, tensor: Tensor, model: nn.Module, pairs: Mapping[str, Pair]) -> Iterator[tuple[str, Tensor]]:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf == "weight" and owner in pairs:
        tensor = pairs[owner].added_to(tensor)
    if isinstance(module, QuantizedLinear) and leaf == "weight" and tensor.is_floating_point():
        levels, scale = module.stored_form(tensor)
        yield name, levels
        yield f"{owner}.weight_scale", scale
    else:
        yield name, tensor


def _dtype_of(name: str, stored: Tensor, dtype: torch.dtype) -> torch.dtype:
    """What a tensor is kept in: the model's dtype, but for levels, their scales and the prefix's encoder."""
    if not stored.is_floating_point() or name.endswith("weight_scale"):
        return stored.dtype
    return torch.float32 if name.startswith(PREFIX_NAME) else dtype
