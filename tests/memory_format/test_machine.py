"""What a process may use of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_format.machine import memory_bytes, processors, quota

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


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            },
            1.0,
        ),
        # A container sees its own group at the top, and its path as the host has it.
        ({"proc/self/cgroup": "0::/host/deep\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2.5),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
    ],
)
def test_what_a_control_group_allows(tmp_path: Path, files: dict[str, str], limit: float | None) -> None:
    assert quota(write(tmp_path, files)) == limit


@pytest.mark.parametrize(("allowed", "found"), [("max", 3), ("150000", 1), ("50000", 1), ("250000", 2), ("9900000", 3)])
def test_processors_are_those_that_may_be_kept_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str, found: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 2, 5}, raising=False)
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": f"{allowed} 100000\n"}
    assert processors(write(tmp_path, files)) == found
