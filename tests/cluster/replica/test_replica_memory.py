"""Memory that is there, and memory that only seems to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ConfigurationError
from cluster.replica.memory import free_memory, require_memory

GIB = 2**30
UNLIMITED_V1 = 9223372036854771712  # what version 1 says where version 2 says "max"


def machine(root: Path, *, available: int, cgroup: str, groups: dict[str, dict[str, str]]) -> Path:
    """The files a machine shows; ``groups`` are folders under /sys/fs/cgroup."""
    files = {
        "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\nHugePages_Total: 0\n",
        "proc/self/cgroup": cgroup,
    }
    for group, contents in groups.items():
        files |= {f"sys/fs/cgroup/{group}/{name}": text for name, text in contents.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(limit: str, used: int, inactive: int = 0) -> dict[str, str]:
    return {"memory.max": limit, "memory.current": f"{used}\n", "memory.stat": f"anon 5\ninactive_file {inactive}\n"}


def v1(limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


def test_without_limits_it_is_what_the_kernel_says(tmp_path: Path) -> None:
    """Groups without a limit, in either version, change nothing."""
    groups = {"": v2("max\n", GIB), "memory/a": v1(UNLIMITED_V1, GIB)}
    root = machine(tmp_path, available=7 * GIB, cgroup="4:memory:/a\n0::/\n", groups=groups)
    assert free_memory(root) == 7 * GIB


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    """What is left of it, page cache that can be dropped included."""
    root = machine(tmp_path, available=64 * GIB, cgroup="0::/\n", groups={"": v2(f"{8 * GIB}\n", 5 * GIB, 2 * GIB)})
    assert free_memory(root) == 5 * GIB


def test_the_tightest_of_nested_limits_counts(tmp_path: Path) -> None:
    """A group's limit holds for the groups in it."""
    groups = {"pod/box": v2(f"{8 * GIB}", 2 * GIB), "pod": v2(f"{9 * GIB}", 6 * GIB)}
    root = machine(tmp_path, available=64 * GIB, cgroup="0::/pod/box\n", groups=groups)
    assert free_memory(root) == 3 * GIB


def test_the_older_kind_of_group_counts_too(tmp_path: Path) -> None:
    """The process's own path may not be visible in a container; its mount is."""
    groups = {"memory": v1(4 * GIB, 3 * GIB, GIB)}
    root = machine(tmp_path, available=64 * GIB, cgroup="4:cpu,memory:/docker/abc\n3:cpuset:/\n", groups=groups)
    assert free_memory(root) == 2 * GIB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    """Never a negative number."""
    root = machine(tmp_path, available=64 * GIB, cgroup="0::/\n", groups={"": v2(f"{GIB}", 2 * GIB)})
    assert free_memory(root) == 0


def test_this_machine_has_some() -> None:
    """The real files can be read."""
    assert free_memory() > 0


def test_too_little_memory_is_told_in_numbers() -> None:
    """What is needed, what there is, and which setting helps."""
    with pytest.raises(ConfigurationError, match=r"11\.50 GiB .* 2\.00 GiB.* 13\.49 GiB .*--kv-cache-gib"):
        require_memory(weights=int(11.5 * GIB), kv_cache=2 * GIB, free=int(13.49 * GIB))


def test_memory_that_just_suffices_is_enough() -> None:
    """To the byte."""
    require_memory(weights=3, kv_cache=4, free=7)
    with pytest.raises(ConfigurationError):
        require_memory(weights=3, kv_cache=4, free=6)
