"""How much memory a cache may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.machine import memory_bytes

MIB = 1024 * 1024
NOWHERE = Path("/nowhere")


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    "files",
    [
        # Version 2: a container that sees its own group as the root, and one whose limit is around it.
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * MIB}\n"},
        {
            "proc/self/cgroup": "0::/pod/main\n",
            "sys/fs/cgroup/pod/main/memory.max": "max\n",
            "sys/fs/cgroup/pod/memory.max": f"{64 * MIB}\n",
        },
        # Version 1, its files at the mount although the path is the host's.
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{64 * MIB}\n",
        },
    ],
)
def test_a_container_has_the_memory_of_its_group(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_bytes(write(tmp_path, files)) == 64 * MIB


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"},
        {
            "proc/self/cgroup": "4:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    ],
)
def test_without_a_limit_it_is_the_machine_s(tmp_path: Path, files: dict[str, str]) -> None:
    assert memory_bytes(write(tmp_path, files)) == memory_bytes(NOWHERE) > 64 * MIB
