"""A whole run against a real service: what is measured is what the memory holds, and a run that was cut off goes on to
the same results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import zarr
from numpy.typing import NDArray

from client import MemoryClient
from learner.data.settings import DataConfig
from learner.memory.contents import load_examples, load_held
from learner.memory.schedule import hardness
from learner.memory.settings import MemoryConfig
from learner.model.attention_masks import MaskConfig
from learner.model.settings import BackboneConfig
from learner.report.page import SeedRun, write_report
from learner.run import method_run
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics, correct
from learner.run.methods import DEFAULT, parse_method
from learner.run.run import Run
from learner.run.run_mark import RunError, buffer_name, mark_of
from learner.run.summary import codec_words, final_table, summary_json, verdict
from learner.training.settings import TrainConfig
from memory_format import image_to_patches
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, Words, make_problem

CONFIG = LearnerConfig(
    data=DataConfig(num_classes=6, image_size=3 * PATCH_PX, base_classes=2, classes_per_phase=2),
    backbone=BackboneConfig(kind="small", patch_px=PATCH_PX, hidden_size=64, num_layers=2),
    train=TrainConfig(base_epochs=2, ssf_epochs=2, batch_size=8, bf16="off"),
    mask=MaskConfig(text=False),
    memory=MemoryConfig(budget_bytes=6_000),
)
PROBLEM = make_problem(phases=[[4, 0], [2, 5], [1, 3]])


def _figures(metrics: list[PhaseMetrics]) -> list[dict[str, Any]]:
    """Everything but the clock."""
    return [{name: value for name, value in asdict(line).items() if "seconds" not in name} for line in metrics]


def _run(
    method: str,
    out: Path,
    service: Service,
    report: Callable[[PhaseMetrics], None] = lambda metrics: None,
    **changes: Any,
) -> list[PhaseMetrics]:
    with MemoryClient(service.url) as client:
        return Run(replace(CONFIG, **changes), PROBLEM, client, out, report=report).run(parse_method(method))


def _buffer(out: Path, method: str = "masked") -> str:
    return buffer_name(mark_of(out), "", parse_method(method).slug)


def _bytes_in_segments(store: Path, live: set[int]) -> int:
    """Sum over live records of what the segment files themselves hold: their share of every column, and their body."""
    total = 0
    for path in (store / "segments").glob("*.zarr.zip"):
        with zarr.storage.ZipStore(path, mode="r") as zipped:
            arrays = dict(zarr.open_group(zipped, mode="r").arrays())
            ids, offsets = (np.asarray(arrays[name][:]) for name in ("exemplar_id", "offset"))
            body = arrays["body"]
            row_bytes = sum(array.dtype.itemsize for name, array in arrays.items() if name != "body")
            ends = np.append(offsets[1:], body.shape[0])
            total += sum(
                row_bytes + int(end) - int(start)
                for exemplar_id, start, end in zip(ids, offsets, ends, strict=True)
                if int(exemplar_id) in live
            )
    return total


def test_runs_that_store_in_different_ways_share_a_base_phase(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    _run("none", first, service)
    for out in (second, third):
        out.mkdir()
        (out / "base.pt").write_bytes((first / "base.pt").read_bytes())
    base = torch.load(first / "base.pt", weights_only=True)

    lossless = MemoryConfig(budget_bytes=30_000, codec={"id": "em_zstd"})
    assert _run("masked", second, service, memory=lossless)[0].train_seconds == base["seconds"]
    # One batch for each step of the later phases, and none that nobody trains on.
    steps = sum(CONFIG.train.num_steps(phase, len(PROBLEM.train.of_classes(PROBLEM.phases[phase]))) for phase in (1, 2))
    drawn = f'exemplar_samples_total{{buffer="{_buffer(second)}"}} {steps}.0'
    assert drawn in httpx.get(f"{service.url}/metrics").text.splitlines()
    # With other training it is another base phase, and with other pictures of the same classes.
    _run("none", third, service, data=replace(CONFIG.data, scenes="misleading"))
    assert torch.load(third / "base.pt", weights_only=True)["key"] != base["key"]
    _run("none", third, service, train=replace(CONFIG.train, base_epochs=1))
    assert torch.load(third / "base.pt", weights_only=True)["key"] != base["key"]


def test_phases_before_the_last_may_be_tested_on_fewer(
    start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[int, int]] = []

    def count(model: Any, split: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(Counter(split.class_ids.tolist()))
        return correct(model, split, *arguments, **options)

    monkeypatch.setattr("learner.run.evaluate.correct", count)
    _run("none", tmp_path / "few", start_service(), data=replace(CONFIG.data, interim_tests_per_class=1))
    num_tests = {name: Counter(split.class_ids.tolist()) for name, split in PROBLEM.tests.items()}
    assert all(count > 1 for counts in num_tests.values() for count in counts.values())
    # Two splits in three phases, and the last two again with the picture and with the text alone.
    assert [sum(counts.values()) for counts in asked[:4]] == [2, 2, 4, 4]
    assert asked[4:6] == list(num_tests.values())
    assert [sum(counts.values()) for counts in asked[6:]] == [6, 6, 6, 6]


def test_a_run_of_all_methods(start_service: Any, tmp_path: Path) -> None:
    service = start_service()
    out = tmp_path / "runs-a"
    results = {method: _run(method, out, service) for method in DEFAULT}

    for method, lines in results.items():
        assert [line.phase for line in lines] == [0, 1, 2]
        assert [line.classes_seen for line in lines] == [2, 4, 6]
        assert lines[0].accuracy_old is None
        for line in lines:
            assert len(line.by_phase) == line.phase + 1
            assert line.bytes_used <= line.budget_bytes == (0 if method == "none" else 6_000)
            assert set(line.by_split) == {"near", "far"}
            assert set(line.by_class) == {str(c) for c in PROBLEM.seen(line.phase)}
            assert np.mean(list(line.by_class.values())) == pytest.approx(line.accuracy)
            assert set(line.by_modality) == ({"both", "picture", "text"} if line.phase == 2 else set())
        on_disk = [json.loads(line) for line in (out / method / "metrics.jsonl").read_text().splitlines()]
        assert on_disk == [asdict(line) for line in lines]
    assert all(line.exemplars == 0 for line in results["none"])
    # The base phase is shared.
    assert len({lines[0].train_seconds for lines in results.values()}) == 1

    full, masked = results["full"][-1], results["masked"][-1]
    assert masked.bytes_per_exemplar < full.bytes_per_exemplar
    assert full.keep_ratio == 1.0
    assert 0 < masked.keep_ratio < 1
    with MemoryClient(service.url) as client:
        # Both buffers live in one store, whose ids are per buffer: look at one after deleting the other.
        client.delete_buffer(_buffer(out, "full"))
        buffer = client.buffer(_buffer(out))
        records = list(buffer.records())
        stats = buffer.stats()
        snapshots = buffer.snapshots()
        then = [list(buffer.records(snapshot=snapshot.name)) for snapshot in snapshots]
    assert [snapshot.name for snapshot in snapshots] == ["phase-0", "phase-1", "phase-2"]
    assert [len(held) for held in then] == [line.exemplars for line in results["masked"]]
    assert [{record.phase for record in held} for held in then] == [{0}, {0, 1}, {0, 1, 2}]
    service.stop()  # which makes Zarr groups of all segments
    assert len(records) == masked.exemplars == stats.num_records
    assert sum(record.charge for record in records) == masked.bytes_used == stats.bytes_used
    assert _bytes_in_segments(service.data, {record.exemplar_id for record in records}) == masked.bytes_used
    assert {record.class_id for record in records} == set(range(6))
    assert {record.phase for record in records} == {0, 1, 2}

    held = load_held(out / "masked")
    assert held is not None
    by_id = {record.exemplar_id: record for record in records}
    assert held.ids == set(by_id)
    assert sum(held.exemplars.values()) == masked.exemplars
    assert sum(held.bytes.values()) == masked.bytes_used
    # Of each class the exemplars that go last: what is kept of them for the report is what the memory holds.
    for class_id in range(6):
        phase = next(p for p, classes in enumerate(PROBLEM.phases) if class_id in classes)
        shown = [e for e in load_examples(out / "masked" / f"examples-{phase}.npz") if e.class_id == class_id]
        assert [by_id[e.exemplar_id].rank for e in shown if e.exemplar_id in held.ids][:1] == [0]
        for example in shown:
            if (record := by_id.get(example.exemplar_id)) is None:
                continue
            assert np.array_equal(record.keep_mask, example.keep_mask)
            assert np.array_equal(record.token_ids, example.token_ids[example.stored_tokens])
            assert record.charge == example.charge
            kept = image_to_patches(example.stored, PATCH_PX)[example.keep_mask.ravel()]
            assert np.array_equal(kept, record.patches())
            assert not image_to_patches(example.stored, PATCH_PX)[~example.keep_mask.ravel()].any()
    summary = summary_json(CONFIG, results, 1.0, buffers={"masked": "runs-a-masked"}, classes=[["a", "b"], ["c"]])
    assert summary["phases"] == 3
    assert summary["classes"] == [["a", "b"], ["c"]]
    assert summary["buffers"] == {"masked": "runs-a-masked"}
    for method in ("none", "full", "masked"):
        assert set(summary[method]) == {
            *("last", "average", "forgetting", "exemplars", "bytes_used", "bytes_per_exemplar")
        }
    assert summary["masked"]["last"] == masked.accuracy
    table = final_table(CONFIG, results)
    assert table.row_count == 3
    assert str(table.title).endswith(f" bytes, {codec_words(CONFIG, ['full'])}")
    assert codec_words(CONFIG, ["none", "full", "masked+avif+q15", "full+avif+mrdc"]).split(" or ") == [
        codec_words(CONFIG, ["masked"]),
        "em_avif quality 15",
        "em_avif quality by MRDC's rule",
    ]
    assert "times as many" in verdict(results)


class PowerCutError(Exception):
    """The power goes."""


@pytest.mark.parametrize(
    ("where", "method"),
    # Scores are given before the evaluation: a second time they would make another version, and other draws.
    [("train", "masked"), ("push", "masked"), ("evaluate", "masked"), ("evaluate", "masked+forgotten")],
)
def test_an_interrupted_run_goes_on_to_the_same_results(
    where: str, method: str, start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start_service()
    outs = {name: tmp_path / name / "run" for name in ("whole", "parts")}
    whole = _run(method, outs["whole"], service)

    def cut(*args: Any, **kwargs: Any) -> Any:
        raise PowerCutError

    cut_in = {
        "train": (method_run, "train_phase"),
        "push": (method_run, "save_examples"),  # right after the push
        "evaluate": (method_run, "evaluate_phase"),
    }[where]
    original = getattr(*cut_in)
    calls = 0

    def second_time(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return cut() if calls == 2 else original(*args, **kwargs)

    monkeypatch.setattr(*cut_in, second_time)
    with pytest.raises(PowerCutError):
        _run(method, outs["parts"], service)
    monkeypatch.setattr(*cut_in, original)

    def other_bits(model: Any, features: Any, class_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of the phase that was interrupted, as a GPU may compute what it has computed before."""
        found = hardness(model, features, class_ids)
        return np.nextafter(found, np.float32(9)) if len(set(class_ids.tolist())) == 4 else found

    monkeypatch.setattr(method_run, "hardness", other_bits)

    seen: list[PhaseMetrics] = []
    resumed = _run(method, outs["parts"], service, seen.append)

    assert _figures(resumed) == _figures(whole)
    assert seen == resumed
    with MemoryClient(service.url) as client:
        contents = [list(client.buffer(_buffer(out, method)).records()) for out in outs.values()]
    assert contents[0] == contents[1]


def test_a_finished_run_is_not_run_again(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _run("full", tmp_path / "again", service)
    monkeypatch.setattr("learner.run.run.train_phase", None)
    monkeypatch.setattr("learner.run.method_run.train_phase", None)
    assert _run("full", tmp_path / "again", service) == first


def test_files_that_were_damaged_are_made_again_or_named(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a full disk or a power cut leaves them: the base phase is trained again, to the same; what only the run knew
    is asked back for; and a report does without its pictures."""
    out = tmp_path / "damaged"
    whole = _run("masked", out, service)
    base = torch.load(out / "base.pt", weights_only=True)
    (out / "base.pt").write_bytes((out / "base.pt").read_bytes()[:-1])
    _run("none", out, service)
    assert f"{out / 'base.pt'} is damaged" in caplog.text
    assert "the base phase is trained again" in caplog.text
    again = torch.load(out / "base.pt", weights_only=True)
    assert all(torch.equal(again["backbone"][name], value) for name, value in base["backbone"].items())

    (out / "masked/examples-1.npz").write_bytes(b"PK")
    (out / "masked/held.json").write_bytes(b"[")
    run = SeedRun({"masked": whole}, PROBLEM.named_phases, out)
    write_report(out, CONFIG, {0: run}, [str(c) for c in range(6)], vocabulary=Words())
    assert "examples-1.npz is damaged" in caplog.text
    assert "held.json is damaged" in caplog.text
    assert (out / "report.html").read_text().count("<h3>") == 4

    (out / "masked/checkpoint.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged .* delete .*masked to begin masked again"):
        _run("masked", out, service)


def test_a_memory_that_lost_its_exemplars_is_said(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "lost"
    _run("full", out, service)
    state = torch.load(out / "full" / "checkpoint.pt", weights_only=True)
    torch.save(state | {"metrics": state["metrics"][:2]}, out / "full" / "checkpoint.pt")
    with MemoryClient(service.url) as client:
        client.delete_buffer(_buffer(out, "full"))
    with pytest.raises(RunError, match="but it is empty"):
        _run("full", out, service)


def test_another_configuration_starts_anew(service: Service, tmp_path: Path) -> None:
    short = replace(CONFIG.train, base_epochs=1, ssf_epochs=1)
    _run("masked", tmp_path / "anew", service)
    lines = _run("masked", tmp_path / "anew", service, train=short, seed=7)
    assert len(lines) == 3
    with MemoryClient(service.url) as client:
        assert client.buffer(_buffer(tmp_path / "anew")).stats().num_records == lines[-1].exemplars
