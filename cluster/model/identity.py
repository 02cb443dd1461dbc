"""What tells served models apart: the root of cache keys, and of the fingerprint by which answers' ids are used again.

Equal identities must give equal keys and values, so everything that changes weights is in it. Small adapter files count
by their content; a checkpoint's weights, gigabytes of them, by name and size. Imports no torch: gateways ask too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from cluster.errors import CheckpointError

_WEIGHTS = ("*.safetensors", "*.bin")


def checkpoint_identity(folder: Path) -> bytes:
    """Of a checkpoint folder, but for its tokenizer. Raises CheckpointError where it cannot be read."""
    return b"".join([_content(folder / "config.json"), *(_size(file) for file in _files(folder))])


def changes_identity(*, quantize: int, lora: str, prefix: str) -> str:
    """Of what is done to a checkpoint when it is loaded; empty where nothing is.

    Raises:
        CheckpointError: a folder cannot be read; names the file.
    """
    parts = [f"int{quantize}"] if quantize else []
    parts += [f"lora={_folder_digest(Path(lora))}"] if lora else []
    parts += [f"prefix={_folder_digest(Path(prefix))}"] if prefix else []
    return ":".join(parts)


def _folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted([*folder.glob("*.json"), *_files(folder)]):
        digest.update(file.name.encode() + b"\0" + hashlib.blake2b(_content(file)).digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))


def _size(file: Path) -> bytes:
    return f"{file.name}:{file.stat().st_size}".encode()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from error
