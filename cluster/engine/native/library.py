"""The C functions, and the structures they take: the same fields in the same order as in ``step.c``.

Arrays are passed by address. Whoever fills a structure keeps its arrays alive, contiguous and of the named dtypes.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from importlib.util import find_spec

EXTENSION = f"{__package__}._kernels"


class Linear(Structure):
    """A packed linear, see ``linear.h``."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("columns", c_int64), ("pairs", c_int64))


class Layer(Structure):
    """One block's weights."""

    _fields_ = (
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        ("qkv", Linear),
        ("dense", Linear),
        ("up", Linear),
        ("down", Linear),
    )


class Pool(Structure):
    """The page pool, see ``attention.h``."""

    _fields_ = (
        ("pages", c_void_p),
        ("layers", c_int64),
        ("page_size", c_int64),
        ("groups", c_int64),
        ("dim", c_int64),
    )


class Model(Structure):
    """A model's shape and weights."""

    _fields_ = (
        *((name, c_int64) for name in ("num_layers", "hidden", "heads", "groups", "dim", "inner", "vocab")),
        ("epsilon", c_float),
        ("embedding", c_void_p),
        ("turns", c_void_p),
        ("norm", c_void_p),
        ("output", Linear),
        ("layers", POINTER(Layer)),
        ("pool", Pool),
    )


class Plan(Structure):
    """A step's plan and where its numbers go."""

    _fields_ = (
        *((name, c_int64) for name in ("num_tokens", "num_rows", "num_drawn", "num_spans", "table_width")),
        *((name, c_void_p) for name in ("token_ids", "positions", "tables", "slots", "drawn")),
        *((name, c_void_p) for name in ("span_rows", "span_tokens", "span_sizes", "span_lengths")),
        *((name, c_void_p) for name in ("x", "normed", "query", "context", "gated", "qkv", "scores")),
        *((name, c_void_p) for name in ("best", "is_finite")),
    )


@cache
def load() -> ctypes.CDLL | None:
    """The library; None where it was not built, or where this CPU lacks its instructions."""
    spec = find_spec(EXTENSION)
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    if not library.chatglm_is_supported():
        return None
    library.chatglm_begin.restype = c_void_p
    library.chatglm_begin.argtypes = (c_int,)
    library.chatglm_end.restype = None
    library.chatglm_end.argtypes = (c_void_p,)
    library.chatglm_step.argtypes = (c_void_p, POINTER(Model), POINTER(Plan))
    library.chatglm_pack.restype = None
    library.chatglm_pack.argtypes = (c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p)
    return library
