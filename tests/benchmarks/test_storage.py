"""The storage benchmark: real records, honest contestants, and a quick mode that says what the full one says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common.document import read
from benchmarks.common.machine import file_system_of
from benchmarks.common.page_cache import disk_bytes
from benchmarks.common.records import Maker, Noise, Pictures, batches, with_ranks
from benchmarks.common.rounds import Figure, interleave, ratio
from benchmarks.storage.contestants.dm_reverb import ENVIRONMENT, Reverb, ReverbPixels
from benchmarks.storage.contestants.files import Lmdb, RawFile
from benchmarks.storage.contestants.ours import InProcess, OverHttp
from benchmarks.storage.contestants.peer import Peer
from benchmarks.storage.report import RUN
from benchmarks.storage.stages import Field, verify_contents
from memory_format import decode_batch

ROOT = Path(__file__).parents[2]
SUMMARY = [
    "http_sample_vs_uvicorn",
    "http_sample_vs_torchrl",
    "http_sample_vs_reverb",
    "http_sample_vs_torchrl_same_bytes",
    "http_sample_vs_reverb_same_bytes",
    "http_sample_decoded_vs_torchrl",
    "decoded_warm_vs_torchrl_pixels",
    "decoded_cold_vs_decoder",
    "local_vs_pread",
    "local_ahead_vs_pread",
    "local_vs_torchrl_same_bytes",
    "sample_latency_1e6_vs_1e3",
    "open_1e6_seconds",
    "index_bytes_per_record",
    "push_vs_raw_fsync",
    "push_decoded_vs_raw_fsync",
    "write_amplification",
    "disk_over_limit",
]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(2_000, num_pictures=4)


@pytest.mark.parametrize("kind", ["pictures", "noise"])
def test_records_are_valid_distinct_and_repeatable(kind: str, pictures: Pictures) -> None:
    maker: Maker = pictures if kind == "pictures" else Noise()
    first, second = batches(maker, 60, 40)
    assert (len(first), len(second)) == (40, 20)
    records = decode_batch(first.arrow)  # checks each of them in full
    assert [record.body for record in records] == first.bodies
    assert len(set(first.bodies) | set(second.bodies)) == 60
    assert max(map(len, first.bodies)) <= maker.max_body
    assert maker.batch(30, 20).bodies == first.bodies[30:] + second.bodies[:10]
    for record in records[:5]:
        assert len(record.patches()) == record.num_kept


def test_pictures_have_the_size_asked_for_and_a_jpeg_of_about_the_same(pictures: Pictures) -> None:
    batch = pictures.batch(0, 4)
    bodies, jpegs = [len(body) for body in batch.bodies], [len(jpeg) for jpeg in batch.jpegs]
    assert np.mean(bodies) == pytest.approx(2_000, rel=0.15)
    assert np.mean(jpegs) == pytest.approx(2_000, rel=0.15)
    assert max(bodies) / np.mean(bodies) > 1.2


def test_a_picture_is_decoded_once_a_batch(pictures: Pictures) -> None:
    batch = pictures.batch(0, 12)
    assert len({id(patches) for patches in batch.patches}) == 4
    for record, patches in zip(batch.records, batch.patches, strict=True):
        assert np.array_equal(patches, record.patches())
        assert len(patches) <= batch.max_patches
        assert len(record.token_ids) <= batch.max_tokens


def test_other_classes_and_ranks_leave_the_bytes_alone() -> None:
    batch = Noise().batch(0, 3)
    other = with_ranks(batch, np.array([7, 8, 9]), np.array([1, 2, 3]))
    assert other.bodies == batch.bodies
    assert [(record.class_id, record.rank) for record in other.records] == [(7, 1), (8, 2), (9, 3)]


def _peers() -> list[type[Peer]]:
    found: list[type[Peer]] = [RawFile, InProcess, OverHttp]
    if importlib.util.find_spec("lmdb"):
        found.append(Lmdb)
    if importlib.util.find_spec("torch"):
        from benchmarks.storage.contestants.jpegs import JpegFolder

        found.append(JpegFolder)
    if importlib.util.find_spec("torchrl"):
        from benchmarks.storage.contestants.torchrl_memmap import TorchRL, TorchRLPixels

        found += [TorchRL, TorchRLPixels]
    if (ENVIRONMENT / "installed").exists():
        found += [Reverb, ReverbPixels]
    return found


@pytest.mark.parametrize("kind", _peers(), ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("default")  # contestants' own
def test_contestants_give_back_what_was_stored(kind: type[Peer], pictures: Pictures, tmp_path: Path) -> None:
    with Field(tmp_path / "field", [kind], capacity=50, max_body=pictures.max_body) as field:
        peer = field.peers[kind]
        for start, count in ((0, 1), (1, 32), (33, 17)):
            assert peer.time_push(pictures.batch(start, count)) > 0
        stored = pictures.batch(0, 50)
        verify_contents([peer], stored, 64)
        peer.forget()
        verify_contents([peer], stored, 64)
        assert set(peer.drawn_contents(1000)) == set(peer.contents(stored))
        if peer.on_disk:
            assert disk_bytes(peer.directory)[0] >= sum(map(len, peer.contents(stored)))
        if kind.__name__.endswith("Pixels"):
            pixels = [record.patches().tobytes() + record.token_ids.tobytes() for record in stored.records]
            assert peer.contents(stored) == pixels
        assert all(read(16) > 0 for read in peer.reads().values())
        damaged = pictures.batch(1000, 50)
        if kind.__name__ != "JpegFolder":  # its pictures repeat
            with pytest.raises(AssertionError, match="did not give back"):
                verify_contents([peer], damaged, 64)
    assert not (tmp_path / "field").exists()


def test_rounds_interleave_and_ratios_are_taken_within_them() -> None:
    turns: list[str] = []

    def task(name: str, seconds: list[float]) -> float:
        turns.append(name)
        return seconds.pop(0)

    slow, fast = [2.0, 40.0, 4.0], [1.0, 10.0, 2.0]
    found = interleave(
        {"slow": lambda: task("slow", slow), "fast": lambda: task("fast", fast)}, rounds=3, warm_up=False
    )
    assert [sorted(turns[i : i + 2]) for i in (0, 2, 4)] == [["fast", "slow"]] * 3
    assert ratio(found["slow"], found["fast"]) == 2.0
    assert found["slow"].median == 4.0
    assert Figure((1.0, 2.0, 3.0, 4.0, 5.0)).quartiles == (2.0, 4.0)


def test_file_systems_in_memory_are_refused(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if file_system_of(memory) != "tmpfs" or not os.access(memory, os.W_OK):
        pytest.skip("no tmpfs here")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.storage", "--directory", str(memory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "which is memory" in done.stderr
    assert not list(memory.glob("bench-storage-*"))


@pytest.mark.slow
def test_quick_mode_says_all_that_the_full_run_says(tmp_path: Path) -> None:
    place, results = tmp_path / "place", tmp_path / "results"
    place.mkdir()
    command = [sys.executable, "-m", "benchmarks.storage", "--quick", "--peers", "raw,lmdb,torchrl,jpegs,ours"]
    done = subprocess.run(
        [*command, "--directory", str(place), "--results", str(results)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert list(summary) == SUMMARY
    assert summary["http_sample_vs_reverb"] is summary["http_sample_vs_reverb_same_bytes"] is None
    optional = {name for name in SUMMARY if "torchrl" in name or "reverb" in name} | {"write_amplification"}
    assert all(isinstance(summary[name], float | int) for name in SUMMARY if name not in optional)
    assert not list(place.iterdir()), "temporary files were left"

    assert {path.name for path in (results / "storage").iterdir()} == {"latest.json", "latest.md", "latest.png"}
    kept = read(results / "storage" / "latest.json")
    assert kept.summary == summary
    found = RUN.validate_python(kept.found)
    assert found.skipped["reverb"] == "not asked for"
    assert list(found.push) == [1, 8]
    assert found.scale is not None
    assert len(found.stages) == 3
    for stage in found.stages:
        assert {"raw file + memmap", "ours, in-process", "ours, HTTP", "bare uvicorn"} <= set(stage.warm)
        assert stage.disk_over_live["raw file + memmap"] >= 1
    text = (results / "storage" / "latest.md").read_text()
    if importlib.util.find_spec("torchrl"):
        held = [stage.content_bytes for stage in found.stages]
        pixels = "torchrl LazyMemmapStorage, pixels"
        assert [pixels in stage for stage in held] == [True, False, False]
        assert held[0][pixels] == 4 * 32 * 32 * 3 + 24 * 8
        assert all(summary[name] for name in SUMMARY if "torchrl" in name)
        left_out = text.partition("## Left out")[2]
        assert left_out.count(pixels) == 2
    amplifications = [churn.amplification_of_pushed for churn in found.churns]
    known = [value for value in amplifications if value is not None]
    worst = pytest.approx(max(known), abs=1e-3) if len(known) == len(amplifications) else None
    assert summary["write_amplification"] == worst
    assert all(churn.pushed_bytes >= 20 * churn.budget_bytes for churn in found.churns)
    assert "## What is promised" in text
