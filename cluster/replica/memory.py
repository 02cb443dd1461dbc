"""Whether a machine has the memory a replica will take, asked before it takes any.

Linux grants more memory than there is and kills a process when it uses it, without a word to anybody; the victim may
well be a replica that serves. A container's limit (cgroup, version 1 or 2) counts as well as the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cluster.errors import ConfigurationError

_GIB = 2**30

# limit, usage, and in memory.stat what the kernel can take back at once: page cache that nobody has used lately
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def require_memory(*, weights: int, kv_cache: int, free: int) -> None:
    """Raise ConfigurationError, naming what is needed and what there is, when ``free`` bytes do not hold both."""
    if weights + kv_cache <= free:
        return
    raise ConfigurationError(
        f"There is too little memory to load the model: weights take {weights / _GIB:.2f} GiB and KV pages "
        f"{kv_cache / _GIB:.2f} GiB, but only {free / _GIB:.2f} GiB are free on this machine; free some, or lower "
        "--kv-cache-gib."
    )


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take without the kernel killing anybody. ``root`` holds /proc and /sys."""
    return min([_available(root), *_headrooms(root)])


def _available(root: Path) -> int:
    fields = _fields(root / "proc/meminfo")
    return fields["MemAvailable:"] * 1024  # the file says kB and means KiB


def _headrooms(root: Path) -> Iterator[int]:
    """What each limit above this process leaves; a group's limit holds for all groups in it."""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _headrooms_up(root / "sys/fs/cgroup", group, _V2)
        elif "memory" in controllers.split(","):
            yield from _headrooms_up(root / "sys/fs/cgroup/memory", group, _V1)


def _headrooms_up(mount: Path, group: str, names: tuple[str, str, str]) -> Iterator[int]:
    folder = mount / group.lstrip("/")
    while True:
        yield from _headroom(folder, *names)
        if folder == mount:
            return
        folder = folder.parent


def _headroom(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Nothing where there is no such group (a container sees its own as the root) or no limit."""
    try:
        text = (folder / limit).read_text().strip()
        if text == "max":
            return
        used = int((folder / usage).read_text())
        yield max(0, int(text) - used + _fields(folder / "memory.stat").get(reclaimable, 0))
    except FileNotFoundError:
        return


def _fields(path: Path) -> dict[str, int]:
    """First and second word of each line."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
