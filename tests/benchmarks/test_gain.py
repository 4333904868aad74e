"""The benchmark inside Avalanche: what is stored in how many bytes, what the model sees, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks.common.document import read
from benchmarks.gain.command import _BENCHMARK, _parser, main
from benchmarks.gain.found import Run, Score
from benchmarks.gain.model import Frozen
from benchmarks.gain.report import summary
from benchmarks.gain.run import Problem, Samples, Training, measure
from benchmarks.gain.ways import WAYS, Files, Remembering
from client import MemoryClient, ReplayBatch
from learner.adapters.avalanche import Recorder
from memory_format import RawZstd
from memory_service.testing import ServiceProcess

BUDGET = 16_000
KEEP = 0.25


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=0)
    model: Any = vit
    model.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return Frozen(model, KEEP)


def _samples(seed: int, count: int) -> Samples:
    pictures = torch.randint(
        0, 200, (6 * count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    return Samples(pictures, torch.arange(6).repeat_interleave(count))


def _pixels(picture: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture.permute(1, 2, 0).numpy())


def test_an_exemplar_is_seen_as_a_model_that_attends_sees_its_picture(frozen: Frozen) -> None:
    picture = _samples(0, 1).pictures[0]
    record = Recorder(codec=RawZstd(), patch_px=8, masked=frozen.mask).record(_pixels(picture), class_id=0)
    assert record.num_kept == 4
    shown = torch.from_numpy(ReplayBatch.from_records([record]).images()[0]).permute(2, 0, 1)
    expected = frozen.features(picture[None], attends=True)
    assert torch.equal(frozen.features(shown[None], attends=False), expected)
    assert torch.equal(frozen.features(shown[None], attends=True), expected)
    assert not torch.allclose(frozen.features(picture[None], attends=False), expected, atol=1e-3)


def test_a_whole_picture_gives_the_features_of_the_vit_itself(frozen: Frozen) -> None:
    pictures = _samples(1, 1).pictures
    with torch.no_grad():
        states = frozen._vit.forward_features((pictures / 255 - 0.5) / 0.2)
    expected = torch.cat([states[:, 0], states[:, 1:].mean(1)], 1)
    assert torch.allclose(frozen.features(pictures, attends=False), expected, atol=1e-5)


def test_what_was_encoded_once_has_the_fields_of_each_push(frozen: Frozen) -> None:
    picture = _pixels(_samples(0, 1).pictures[0])
    recorder = Remembering(codec=RawZstd(), patch_px=8, masked=frozen.mask)
    first, second = (recorder.record(picture, class_id=n, rank=n, phase=n) for n in (1, 2))
    assert (second.class_id, second.rank, second.phase) == (2, 2, 2)
    assert first.payload is second.payload
    assert first == Recorder(codec=RawZstd(), patch_px=8, masked=frozen.mask).record(
        picture, class_id=1, rank=1, phase=1
    )


def test_files_take_the_bytes_that_are_counted(tmp_path: Path) -> None:
    pictures = _samples(0, 1).pictures
    files = Files.of(pictures, ("JPEG", 5))
    assert (files.sizes < Files.of(pictures, ("JPEG", 75)).sizes).all()
    assert files.pictures.shape == pictures.shape
    assert not torch.equal(files.pictures, pictures)


def test_every_way_fills_its_bytes_and_what_is_done_is_not_done_again(frozen: Frozen, tmp_path: Path) -> None:
    problem = Problem(_samples(0, 8), [_samples(1, 2)], frozen, (0, 6), Training(epochs=1, gdumb_epochs=1))
    ways, strategies = ("pixels", "jpeg-10", "masked"), ("er", "er-ace", "der", "gdumb", "icarl")
    trained: list[Score] = []
    with ServiceProcess(tmp_path / "memory") as service, MemoryClient(service.url) as memory:

        def run() -> Run:
            return measure(
                problem,
                memory,
                tmp_path / "out",
                budget_bytes=BUDGET,
                ways=ways,
                strategies=strategies,
                seeds=(3,),
                tick=trained.append,
            )

        first = run()
        held = {score.way: score.bytes_held for score in first.scores if score.strategy == "er"}
        items = {score.way: score.exemplars for score in first.scores if score.strategy == "er"}
        assert len(first.scores) == 15
        assert items["pixels"] == BUDGET // 3072 == 5
        assert held["pixels"] == 5 * 3072
        assert BUDGET / 2 < held["jpeg-10"] < 1.1 * BUDGET
        assert held["masked"] <= BUDGET
        assert items["masked"] > items["jpeg-10"] > items["pixels"]
        with_logits = {score.way: score for score in first.scores if score.strategy == "der"}
        assert with_logits["pixels"].bytes_held == 5 * (3072 + 6 * 4)
        assert items["jpeg-10"] > with_logits["jpeg-10"].exemplars > 5
        assert BUDGET / 2 < with_logits["jpeg-10"].bytes_held < 1.1 * BUDGET
        assert with_logits["masked"].exemplars == items["masked"] == 48
        assert held["masked"] + 48 * 6 * 4 < with_logits["masked"].bytes_held <= BUDGET
        herded = {score.way: score for score in first.scores if score.strategy == "icarl"}
        assert herded["masked"].exemplars >= herded["jpeg-10"].exemplars > herded["pixels"].exemplars == 6
        assert herded["masked"].bytes_held <= BUDGET
        assert all(len(score.accuracy) == 5 for score in first.scores)
        made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        assert len(made) == 15
        again = run()
        assert (first.earlier, replace(again, earlier=[])) == ([], first)
        assert again.earlier == [(score.strategy, score.way, 3) for score in first.scores]
        assert {path: path.stat().st_mtime_ns for path in made} == made
    assert trained == 2 * first.scores


@pytest.mark.parametrize("words", [["--ways", "masked"], ["--ways", "pixels"], ["--ways", "zip"], ["--seeds", "0"]])
def test_a_run_without_anything_to_compare_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    told = capsys.readouterr().err
    assert any(said in told for said in ("own, pixels, jpeg-75", "there are", "at least 1"))


def _run() -> Run:
    scores = [
        Score("er", way, seed, [0.5, last], 10, 1000)
        for way, lasts in {"pixels": (0.1, 0.12), "jpeg-10": (0.2, 0.2), "masked": (0.3, 0.31)}.items()
        for seed, last in enumerate(lasts)
    ]
    words = {way: WAYS[way].words for way in ("pixels", "jpeg-10", "masked")}
    return Run(1000, (0, 6), [0, 1], words, ["pixels", "jpeg-10"], {"er": "ER"}, scores)


def test_the_gain_is_over_the_best_of_the_librarys_own(tmp_path: Path) -> None:
    run = replace(_run(), earlier=[("er", "pixels", 0), ("er", "pixels", 1)])
    assert run.best_own("er") == "jpeg-10"
    gain = run.gain("er", "masked", "jpeg-10")
    assert gain.mean == pytest.approx(0.105)
    assert gain.excludes_zero
    assert summary(run)["er"]["best_own"] == "jpeg-10"
    options = _parser().parse_args(["--results", str(tmp_path)])
    _BENCHMARK.publish(run, summary(run), options, [], 0.0, None)
    page = (tmp_path / "gain" / "latest.md").read_text()
    assert "service, masked, AVIF: **yes**, +10.5" in page
    rows = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| own")]
    assert [row[-2] for row in rows[:2]] == ["0, 1", ""]
    assert read(tmp_path / "gain" / "latest.json").summary["er"]["masked"]["pixels"]["mean"] == pytest.approx(0.195)
    lost = replace(run, scores=[replace(score, accuracy=[0.5, 0.2]) for score in run.scores])
    assert lost.gain("er", "masked", "jpeg-10").mean == 0
