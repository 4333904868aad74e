"""Learners with classes and numbers of their own share one buffer, and know each other's classes by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import Buffer, MemoryClient
from learner.data.base import DataError
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.method_run import MethodRun
from learner.run.methods import Method, parse_method
from learner.run.problem import Problem, chosen
from learner.run.run import Run
from learner.run.run_mark import RunError, mark_of
from memory_format import ForbiddenError, make_record, vocabulary_fingerprint
from memory_service.store.keys import KeyFile
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, make_problem
from tests.learner.test_phases import CONFIG

NAMES = ["ant", "bee", "cat", "dog", "emu", "fox"]
ALL = replace(make_problem(phases=[[0, 1, 2], [3, 4, 5]]), class_names=NAMES)
LEFT, RIGHT = replace(ALL, phases=[[4, 0], [2]]), replace(ALL, phases=[[5, 1], [3]])
SHARED = replace(
    CONFIG, train=replace(CONFIG.train, ssf_epochs=4), memory=replace(CONFIG.memory, join="zoo", budget_bytes=20_000)
)
METHOD = parse_method("full")


QUICK = replace(CONFIG.train, base_epochs=1, ssf_epochs=1)


def _run(
    out: Path, service: Service, problem: Problem, config: LearnerConfig = SHARED, method: Method = METHOD
) -> list[PhaseMetrics]:
    with MemoryClient(service.url) as client:
        run = Run(config, problem, client, out)
        run.prepare([method])
        return run.run(method)


def test_two_learners_know_each_others_classes(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    left = _run(tmp_path / "left", service, LEFT)
    assert left[-1].others is None
    right = _run(tmp_path / "right", service, RIGHT)
    # What nobody has shown it but the buffer: chance is a sixth.
    assert right[-1].others is not None
    assert right[-1].others > 0.5
    with MemoryClient(service.url) as client:
        buffer = Buffer(client, "zoo")
        assert buffer.class_names() == dict(enumerate(["emu", "ant", "cat", "fox", "bee", "dog"]))
        stats = buffer.stats()
        assert set(stats.learners) == {mark_of(tmp_path / "left").id, mark_of(tmp_path / "right").id}
        assert [entry.name for entry in stats.classes] == ["emu", "ant", "cat", "fox", "bee", "dog"]
        assert buffer.info().owner == ""
        assert buffer.snapshots() == []
        # Who came first is told again, and learns what has come since; it pushes nothing twice.
        held = [info.exemplar_id for info in buffer.query()]
        told_again = _run(tmp_path / "left", service, LEFT)
        assert told_again[:-1] == left[:-1]
        assert told_again[-1].others is not None
        assert told_again[-1].others > 0.5
        assert [info.exemplar_id for info in buffer.query()] == held
        assert _run(tmp_path / "left", service, LEFT)[-1].others == told_again[-1].others
        # A learner that begins anew takes away what is its own, and nothing else.
        theirs = {info.exemplar_id for info in buffer.query(learner_id=mark_of(tmp_path / "left").id)}
        run = Run(replace(SHARED, seed=9), RIGHT, client, tmp_path / "anew")
        (tmp_path / "anew").mkdir()
        (tmp_path / "right/run.json").rename(tmp_path / "anew/run.json")
        work = MethodRun(run.setup, METHOD)
        work.look()
        work.open_buffer()
        assert {info.exemplar_id for info in buffer.query()} == theirs


def _in_step(learner_id: str, **memory: Any) -> LearnerConfig:
    step = replace(SHARED.memory, learner=learner_id, in_step=("left", "right"), **memory)
    return replace(SHARED, train=QUICK, memory=step)


def test_learners_in_step_test_each_phase_with_what_all_have_pushed(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    # One has more phases than the other, and is held up by nobody in the last.
    longer = replace(ALL, phases=[[5], [1], [3]])

    def left() -> list[PhaseMetrics]:
        return _run(tmp_path / "left", service, LEFT, _in_step("left", wait_minutes=0.0))

    def right() -> list[PhaseMetrics]:
        return _run(tmp_path / "right", service, longer, _in_step("right", wait_minutes=0.0))

    # Whoever would have to wait ends at once, and goes on from there.
    with pytest.raises(RunError, match=r"phase 1 of buffer zoo: 1 of 2 .* behind: right.* the same command"):
        left()
    with pytest.raises(RunError, match=r"phase 2 of buffer zoo: 1 of 2 .* behind: left"):
        right()
    # What each has seen of the other's classes in each phase came by the buffer, and was there in time.
    assert [metrics.others is not None for metrics in left()] == [True, True]
    assert [metrics.others is not None for metrics in right()] == [True, True, True]
    with MemoryClient(service.url) as client:
        phases = Buffer(client, "zoo").phases()
    assert {name: (at.phase, at.ended) for name, at in phases.items()} == {"left": (2, True), "right": (3, True)}


def test_who_is_in_step_is_one_of_those_that_are_waited_for() -> None:
    for join, learner, in_step in (("", "left", ("left",)), ("zoo", "left", ("right",)), ("zoo", "", ("left",))):
        with pytest.raises(ValueError, match="in_step names the learners of a shared buffer"):
            replace(CONFIG.memory, join=join, learner=learner, in_step=in_step)


def test_a_run_pushes_as_the_learner_that_its_key_is_tied_to(start_service: Any, tmp_path: Path) -> None:
    data = tmp_path / "store"
    data.mkdir()
    keys = KeyFile(data)
    mine, everybodys = (keys.make("write", 0.0, learner_id=name)[1] for name in ("ann", None))
    service = start_service(data)
    one_phase = replace(LEFT, phases=[[4, 0]])
    config = replace(SHARED, train=QUICK, memory=replace(SHARED.memory, learner="ann"))

    def run(out: Path, key: str, config: LearnerConfig) -> None:
        with MemoryClient(service.url, key=key) as client:
            begun = Run(config, one_phase, client, out)
            begun.prepare([METHOD])
            begun.run(METHOD)

    run(tmp_path / "shared", mine, config)
    run(tmp_path / "own", mine, replace(config, memory=replace(config.memory, join="", buffer="ann-1")))
    with MemoryClient(service.url, key=everybodys) as client:
        for name in ("zoo", "ann-1-full"):
            assert set(client.buffer(name).stats().learners) == {"ann"}
        # What somebody else's run pushed under the name, perhaps, is not this one's to delete.
        held = client.buffer("zoo").stats().num_records
        with pytest.raises(RunError, match=r"ann has exemplars in zoo.*Buffer\.delete\(learner_id='ann'\)"):
            run(tmp_path / "another", mine, config)
        assert client.buffer("zoo").stats().num_records == held
    with pytest.raises(ForbiddenError, match="ann"):
        run(tmp_path / "unnamed", mine, replace(config, memory=replace(config.memory, learner="")))
    with pytest.raises(ValueError, match="learner is 1"):
        replace(config.memory, learner="Ann!")


def test_a_buffer_of_more_classes_than_an_address_names(start_service: Any, tmp_path: Path) -> None:
    service, many = start_service(), range(1001)
    with MemoryClient(service.url) as client:
        buffer = client.create_buffer("zoo", budget_bytes=2**20)
        assert buffer.name_classes([f"kind {number}" for number in many]) == list(many)
        one = np.zeros((1, PATCH_PX, PATCH_PX, 3), np.uint8)
        words: dict[str, Any] = {"token_ids": [1, 2], "token_positions": [0, 1], "text_length": 2}
        buffer.push(
            make_record(patches=one, keep_mask=np.ones((1, 1), bool), **words, class_id=number, learner_id="keeper")
            for number in many
        )
    config = replace(SHARED, memory=replace(SHARED.memory, budget_bytes=2**20), train=QUICK)
    (*_, last) = _run(tmp_path / "left", service, LEFT, config)
    assert (last.exemplars, last.others) == (1001 + 3 * 12, None)


def test_a_run_tells_its_buffer_the_words_of_its_texts(start_service: Any, tmp_path: Path) -> None:
    service, words = start_service(), [f"word{number}" for number in range(300)]
    problem = replace(LEFT, vocabulary=vocabulary_fingerprint(words), words=words)
    own = replace(SHARED, memory=replace(SHARED.memory, join=""))
    with MemoryClient(service.url) as client:
        for config in (SHARED, own):
            MethodRun(Run(config, problem, client, tmp_path / f"run-{config.memory.join}").setup, METHOD).open_buffer()
        assert {info.name: client.buffer(info.name).vocabulary() for info in client.buffers()} == {
            info.name: words for info in client.buffers()
        }


def test_what_cannot_be_joined_is_said_before_anything_is_trained(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    with MemoryClient(service.url) as client:
        client.create_buffer("zoo", budget_bytes=1000, owner="another-run")
        with pytest.raises(RunError, match="zoo is not shared: it is that of run another-run"):
            _run(tmp_path / "run", service, LEFT)
        client.delete_buffer("zoo", owner="another-run")
        client.create_buffer("zoo", budget_bytes=1000, patch_px=32)
        with pytest.raises(RunError, match="patch_px of the shared buffer zoo is 32, and this run's is 8"):
            _run(tmp_path / "run", service, LEFT)
    assert not (tmp_path / "run/base.pt").exists()


def test_some_of_the_classes_come_in_the_order_of_all() -> None:
    def of(*names: str) -> list[int]:
        return chosen(replace(CONFIG.data, classes=names), [3, 1, 0, 2, 5, 4], NAMES)

    assert of() == [3, 1, 0, 2, 5, 4]
    assert of("fox", "ant", "dog") == [3, 0, 5]
    with pytest.raises(DataError, match=r"data\.classes: there is no class 'yak'"):
        of("yak")
    with pytest.raises(DataError, match="comes once"):
        of("ant", "ant")
