"""Memory limits of containers, read from trees of files as Linux shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from whet import cgroups, limits
from whet.cgroups import MemoryGroup, memory_groups
from whet.errors import ResourceError
from whet.limits import container_bytes, free_bytes, machine_bytes, require_memory

MIB = 1 << 20
NO_LIMIT = 0x7FFFFFFFFFFFF000
"""What version 1 shows for a group without a limit."""

Files = Mapping[str, str | int]
Tree = Callable[[str, Files], None]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Return what makes a tree of groups, and the file that says where the process is."""
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path / "sys")
    monkeypatch.setattr(cgroups, "_OWN", tmp_path / "cgroup")

    def make(own: str, files: Files) -> None:
        if own:
            (tmp_path / "cgroup").write_text(own)
        for name, content in files.items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return make


def v1(folder: str, most: int, used: int = 0, pages: int = 0) -> Files:
    """Return the files of a group of version 1; its own pages are none, those below it some."""
    return {
        f"{folder}/memory.limit_in_bytes": most,
        f"{folder}/memory.usage_in_bytes": used,
        f"{folder}/memory.stat": f"cache 7\ninactive_file 0\ntotal_inactive_file {pages}",
    }


def v2(folder: str, most: int | str, used: int = 0, pages: int = 0) -> Files:
    """Return the files of a group of version 2."""
    return {
        f"{folder}/memory.max": most,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon 5\ninactive_file {pages}\nactive_file 9",
    }


OWN_V1 = "9:name=systemd:/\n4:cpu,memory:/docker/ab\n1:cpuset:/other\n0::/\n"


def test_version_1_of_a_container(tree: Tree) -> None:
    """The path of the group is the host's, and what is mounted is the group itself."""
    tree(OWN_V1, v1("memory", 300 * MIB, 200 * MIB, 50 * MIB))
    assert memory_groups() == [MemoryGroup(300 * MIB, 200 * MIB, 50 * MIB)]
    assert container_bytes() == machine_bytes() == 300 * MIB
    assert free_bytes() == 150 * MIB
    require_memory(300 * MIB)
    with pytest.raises(ResourceError, match=f"container of {300 * MIB}"):
        require_memory(300 * MIB + 1)


def test_version_1_counts_all_groups_above(tree: Tree) -> None:
    tree(OWN_V1, {
        **v1("memory", NO_LIMIT),
        **v1("memory/docker", 500 * MIB, 480 * MIB),
        **v1("memory/docker/ab", 400 * MIB, 100 * MIB),
        **v1("memory/other", MIB),
    })  # fmt: skip
    assert [g.most_bytes for g in memory_groups()] == [400 * MIB, 500 * MIB]
    assert container_bytes() == 400 * MIB
    assert free_bytes() == 20 * MIB


def test_version_1_without_a_limit(tree: Tree) -> None:
    tree(OWN_V1, {**v1("memory", NO_LIMIT), **v1("memory/docker/ab", NO_LIMIT)})
    assert memory_groups() == []
    assert container_bytes() is None


def test_version_2_of_a_container(tree: Tree) -> None:
    tree("0::/\n", v2(".", 300 * MIB, 200 * MIB, 50 * MIB))
    assert container_bytes() == 300 * MIB
    assert free_bytes() == 150 * MIB


def test_version_2_counts_all_groups_above(tree: Tree) -> None:
    tree("0::/user.slice/run.scope\n", {
        **v2("user.slice", 200 * MIB, 190 * MIB, 20 * MIB),
        **v2("user.slice/run.scope", "max", 10 * MIB),
    })  # fmt: skip
    assert memory_groups() == [MemoryGroup(200 * MIB, 190 * MIB, 20 * MIB)]
    assert free_bytes() == 30 * MIB


def test_both_versions_at_once(tree: Tree) -> None:
    """Memory belongs to one of them; the other has no such files."""
    own = "4:memory:/a\n0::/b\n"
    tree(own, {**v1("memory/a", 100 * MIB), "unified/b/cgroup.procs": 1})
    assert container_bytes() == 100 * MIB


@pytest.mark.parametrize("own", ["", "0::/../above\n4:memory:/../..\n", "nonsense\n\n:::\n"])
def test_groups_that_cannot_be_seen(tree: Tree, own: str) -> None:
    tree(own, {**v1("memory", 100 * MIB), **v2("../above", MIB)})
    assert container_bytes() == 100 * MIB


@pytest.mark.parametrize("most", ["", "max", "-1", "0x10", "many"])
def test_what_is_no_number_is_no_limit(tree: Tree, most: str) -> None:
    tree("", {"memory.max": most, "memory/memory.limit_in_bytes": most})
    assert container_bytes() is None
    assert free_bytes() > 0


def test_use_that_cannot_be_read_is_not_counted(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree("", {"memory/memory.limit_in_bytes": 100 * MIB})
    monkeypatch.setattr(limits, "_MEMORY_INFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable: 700 kB\n")
    assert memory_groups() == [MemoryGroup(100 * MIB, None, 0)]
    assert free_bytes() == 700 * 1024
