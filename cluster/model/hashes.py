"""SHA-256 sums that a checkpoint's files should have, from every place that states them.

A folder may hold ``SHA256SUMS``. Hugging Face's downloader leaves the sum of a large file behind: in the name of the
blob that a link of its cache points to, or in a metadata file of a plain download folder. The published tokenizer's sum
is known here; a tokenizer of another size is another tokenizer, and has none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import CheckpointError
from cluster.tokenizer.tokenizer import MODEL_FILE

SUMS_FILE = "SHA256SUMS"

PUBLISHED_TOKENIZER = "e7dc4c393423b76e4373e5157ddc34803a0189ba96b21ddbb40269d31468a6f2"
_PUBLISHED_TOKENIZER_BYTES = 1_018_370

_SUM = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
_BLOCK = 1 << 24


def known_sums(folder: Path) -> dict[Path, str]:
    """File -> sum it should have, where one is known. Raises CheckpointError for a SHA256SUMS that is none."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found = {file: known for file in files if (known := _known(file))}
    return found | dict(_listed(folder))


def sha256(file: Path) -> str:
    """The sum of a file, read in blocks. Raises CheckpointError naming the file when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror}.") from error
    return digest.hexdigest()


def _known(file: Path) -> str | None:
    if file.is_symlink() and _SUM.fullmatch(name := file.resolve().name):
        return name
    if sum_ := _downloaded(file):
        return sum_
    is_published = file.name == MODEL_FILE and file.stat().st_size == _PUBLISHED_TOKENIZER_BYTES
    return PUBLISHED_TOKENIZER if is_published else None


def _downloaded(file: Path) -> str | None:
    """The second line of what the downloader writes: the sum of a large file (of a small one, something shorter)."""
    metadata = file.parent / ".cache" / "huggingface" / "download" / f"{file.name}.metadata"
    if not metadata.is_file():
        return None
    lines = metadata.read_text("utf-8", errors="replace").splitlines()
    return lines[1] if len(lines) > 1 and _SUM.fullmatch(lines[1]) else None


def _listed(folder: Path) -> Iterator[tuple[Path, str]]:
    sums = folder / SUMS_FILE
    if not sums.is_file():
        return
    for number, line in enumerate(sums.read_text("utf-8", errors="replace").splitlines(), 1):
        entry = _LINE.fullmatch(line)
        if entry is None or Path(entry[2]).name != entry[2]:
            raise CheckpointError(f"{sums}: line {number} is not a SHA-256 sum and the name of a file of this folder.")
        yield folder / entry[2], entry[1]
