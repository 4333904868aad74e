"""No run touches what another one stores, whatever their folders are called."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client import Buffer, MemoryClient
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.methods import parse_method
from learner.run.run import Run
from learner.run.run_mark import RunError, buffer_name, mark_of
from learner.run.setup import names_of
from memory_format import Record
from tests.conftest import Service
from tests.learner.builders import make_problem
from tests.learner.test_phases import CONFIG, _figures

PROBLEM = make_problem(phases=[[4, 0], [2, 5]])
SHORT = replace(CONFIG, train=replace(CONFIG.train, base_epochs=1, ssf_epochs=1))
MASKED = parse_method("masked")


class RebootError(Exception):
    """In the middle of a run."""


def _reboot(metrics: PhaseMetrics) -> None:
    raise RebootError


def _run(
    out: Path, service: Service, config: LearnerConfig = SHORT, *, reboot: bool = False, overwrite: bool = False
) -> list[PhaseMetrics] | None:
    with MemoryClient(service.url) as client:
        run = Run(config, PROBLEM, client, out, report=_reboot if reboot else lambda metrics: None, overwrite=overwrite)
        run.prepare([MASKED])
        try:
            return run.run(MASKED)
        except RebootError:
            return None


def _held(service: Service) -> dict[str, list[Record]]:
    """Every buffer and what it holds."""
    with MemoryClient(service.url) as client:
        return {info.name: list(Buffer(client, info.name).records()) for info in client.buffers()}


SEEDS = {"a": 0, "b": 5}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Any], list[Any]]]:
    """What either run comes to by itself: its figures, and what its buffer holds."""
    found = {}
    for user, seed in SEEDS.items():
        folder = tmp_path_factory.mktemp("alone")
        service = Service(folder / "store")
        try:
            metrics = _run(folder / "exp", service, replace(SHORT, seed=seed))
            (records,) = _held(service).values()
        finally:
            service.stop()
        assert metrics is not None
        found[user] = (_figures(metrics), records)
    return found


@pytest.mark.parametrize("order", ["aabb", "abab", "abba"])
def test_runs_of_one_name_end_as_if_alone_in_whatever_order(
    order: str, start_service: Any, tmp_path: Path, alone: dict[str, tuple[list[Any], list[Any]]]
) -> None:
    """Each is interrupted once, and goes on; what the other one holds is untouched meanwhile."""
    service = start_service()
    begun: set[str] = set()
    before: dict[str, list[Record]] = {}
    for user in order:
        out = tmp_path / user / "exp"
        metrics = _run(out, service, replace(SHORT, seed=SEEDS[user]), reboot=user not in begun)
        held, mine = _held(service), buffer_name(mark_of(out), "", "masked")
        assert {name: held[name] for name in before if name != mine} == {
            name: records for name, records in before.items() if name != mine
        }
        if user in begun:
            assert metrics is not None
            assert (_figures(metrics), held[mine]) == alone[user]
        begun.add(user)
        before = held
    assert len(before) == 2


def test_overwrite_takes_the_place_of_another_runs_buffer(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    shared = replace(SHORT, memory=replace(SHORT.memory, buffer="shared"))
    assert _run(tmp_path / "a/exp", service, shared, reboot=True) is None
    with MemoryClient(service.url) as client:
        info = Buffer(client, "shared-masked").info()
        assert (info.owner, info.patch_px) == (mark_of(tmp_path / "a/exp").id, 8)
    assert _run(tmp_path / "b/exp", service, shared, reboot=True, overwrite=True) is None
    with MemoryClient(service.url) as client:
        assert Buffer(client, "shared-masked").info().owner == mark_of(tmp_path / "b/exp").id
    # It cannot go on from what is gone, whatever it overwrites.
    with pytest.raises(RunError, match="says that buffer shared-masked holds"):
        _run(tmp_path / "a/exp", service, shared, overwrite=True)


def test_a_buffer_of_an_earlier_version_goes_on(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    assert _run(tmp_path / "exp", service, reboot=True) is None
    with MemoryClient(service.url) as client:
        (info,) = client.buffers()
        Buffer(client, info.name).configure(owner="", patch_px=None)
        assert _run(tmp_path / "exp", service) is not None
        assert client.buffers()[0].owner == mark_of(tmp_path / "exp").id


def test_classes_have_names_in_a_buffer() -> None:
    problem = replace(PROBLEM, class_names=["cat", "", "x" * 300, "a\0b", "cat", "owl"])
    names = names_of(problem, range(6))
    assert names == ["cat (0)", "1", "x" * 188, "ab", "cat (4)", "owl"]
    assert names_of(PROBLEM, [4, 0]) == ["4", "0"]


def test_a_buffer_of_another_run_is_refused_before_anything_is_done(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    shared = replace(SHORT, memory=replace(SHORT.memory, buffer="shared"))
    assert _run(tmp_path / "a/exp", service, shared, reboot=True) is None
    before = _held(service)
    assert list(before) == ["shared-masked"]
    assert before["shared-masked"]
    with pytest.raises(RunError, match="is not this run's") as refused:
        _run(tmp_path / "b/exp", service, shared)
    for said in ("shared-masked", str(tmp_path / "a/exp"), mark_of(tmp_path / "a/exp").host, "memory.buffer=NAME"):
        assert said in str(refused.value)
    assert not (tmp_path / "b/exp/base.pt").exists()
    assert _held(service) == before
    # Its own it goes on with, and also makes anew when other settings want that.
    assert _run(tmp_path / "a/exp", service, shared) is not None
    assert _run(tmp_path / "a/exp", service, replace(shared, seed=3)) is not None


def test_a_buffer_that_says_nothing_of_itself_is_not_touched(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    with MemoryClient(service.url) as client:
        client.create_buffer("mine-masked", budget_bytes=1000)
        with pytest.raises(RunError, match="mine-masked is not this run's: it does not say whose it is"):
            _run(tmp_path / "run", service, replace(SHORT, memory=replace(SHORT.memory, buffer="mine")))
        assert [info.name for info in client.buffers()] == ["mine-masked"]


@pytest.mark.parametrize(
    "folder", ["Ünïcode Run!", "x" * 200, "-_-", "1", "exp.v2", "demo", "a/../b c", "with\nline", "name\udcff"]
)
def test_a_folder_of_any_name_has_buffers(folder: str, service: Service, tmp_path: Path) -> None:
    out = tmp_path / folder
    mark = mark_of(out)
    with MemoryClient(service.url) as client:
        for method in ("masked", "masked+text+mean4+mean-heads+sinks+cosine+no-fill+no-drop+no-views"):
            slug = parse_method(method).slug
            name = buffer_name(mark, "", slug)
            assert len(buffer_name(mark, "x" * 22, slug)) <= 63
            info = client.create_buffer(name, budget_bytes=1, description=mark.description).info()
            assert mark.owns(info.description)
            assert not replace(mark, id="0" * 12).owns(info.description)
            client.delete_buffer(name)


def test_a_folder_that_was_moved_goes_on_and_a_copy_does_not(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    assert _run(tmp_path / "first", service, reboot=True) is None
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    with pytest.raises(RunError, match=r"copy is a copy of .*first, and both would store into the same buffers"):
        _run(tmp_path / "copy", service)
    shutil.rmtree(tmp_path / "copy")
    (tmp_path / "first").rename(tmp_path / "moved")
    lines = _run(tmp_path / "moved", service)
    assert lines is not None
    held = _held(service)
    assert len(held) == 1
    assert lines[-1].exemplars == len(next(iter(held.values())))


def test_processes_that_begin_in_one_folder_are_one_run(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        marks = list(pool.map(lambda number: mark_of(tmp_path / "new"), range(32)))
    assert len(set(marks)) == 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"id": "a"}', b"\xff"])
def test_a_damaged_mark_is_named(content: bytes, tmp_path: Path) -> None:
    mark_of(tmp_path)
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        mark_of(tmp_path)


def test_a_mark_is_for_people_to_read(tmp_path: Path) -> None:
    mark = mark_of(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["id"] == mark.id
    assert mark.description.startswith(f"learner run {mark.id} in {tmp_path} on {mark.host}, begun 20")
