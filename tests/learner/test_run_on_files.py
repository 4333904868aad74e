"""``learner run`` on pictures in files, against a real service: shapes that differ, and what people get wrong."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client import MemoryClient
from learner.cli import main
from learner.data.base import DataError
from learner.memory.contents import load_examples
from learner.model.backbones.choose import backbone_facts
from learner.model.backbones.parts import vilt_from_parts
from learner.model.backbones.vilt import small_vilt
from learner.model.captioner import caption_folder
from learner.model.settings import BackboneConfig
from learner.run.problem import Problem
from tests.conftest import Service
from tests.learner import trees
from tests.learner.builders import make_split

SMALL: dict[str, object] = {
    "data.image_size": 32,
    "data.base_classes": 2,
    "data.classes_per_phase": 2,
    "backbone.kind": "small",
    "backbone.patch_px": 8,
    "backbone.hidden_size": 64,
    "backbone.num_layers": 2,
    "train.base_epochs": 1,
    "train.ssf_epochs": 1,
    "train.batch_size": 8,
    "train.bf16": "off",
}
"""Phases of few classes, and a model that is trained in no time."""
SETTINGS = SMALL | {
    "data.name": "folder",
    "data.num_classes": 0,
    "data.train_per_class": 0,
    "data.test_per_class": 0,
    "memory.budget_bytes": 20_000,
}


def as_options(settings: Mapping[str, object]) -> list[str]:
    """``--set`` for each."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Callable[..., int]:
    """``learner run`` on a table or a folder, everything small."""

    def run(path: Path, name: str, methods: str = "masked", **changes: object) -> int:
        settings = {**SETTINGS, "data.path": path, **{key.replace("__", "."): v for key, v in changes.items()}}
        out = str(tmp_path / name)
        return main(["run", "--url", service.url, "--out", out, "--methods", methods, *as_options(settings)])

    return run


def test_a_folder_of_odd_pictures_runs_to_its_report(
    run: Callable[..., int], service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Shapes that differ, one pixel, endless, grey, transparent, 16-bit; no text, and a text of 5,000 words; a class of
    one sample: all in one run, and what the memory holds of it has each picture's own grid."""
    root = tmp_path / "things"
    table = trees.folder_set(root, classes=4, per_class=8)
    odd = {
        "pixel.png": Image.new("RGB", (1, 1), "red"),
        "long.png": Image.new("RGB", (3000, 2), "red"),
        "tall.jpg": Image.new("L", (20, 900), 100),
        "glass.png": Image.new("RGBA", (30, 30), (255, 0, 0, 90)),
        "deep.png": Image.fromarray(np.full((30, 40), 40_000, dtype=np.uint16)),
    }
    with table.open("a") as file:
        for name, image in odd.items():
            image.save(root / name)
            file.write(f"{name},,class 0\n")
        trees.picture(root / "rare.png")
        file.write(f"rare.png,{'word ' * 5000},rare\n")
    assert run(table, "odd", "none,full,masked,masked+text+mean-heads,cim+colour") == 0
    assert "1 of 38 texts are longer than 40 tokens (data.max_text_tokens)" in caplog.text
    assert "the longest has 5002" in caplog.text
    assert caplog.text.count("lose their end") == 1
    assert "nothing to test on of 'rare'" in caplog.text
    out = tmp_path / "odd"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["phases"] == 3
    assert summary["masked"]["exemplars"] > 0
    page = (out / "report.html").read_text()
    assert "5 classes of things" in page
    assert page.count("<h3>") == 5
    with MemoryClient(service.url) as client:
        grids = {record.keep_mask.shape for record in client.buffer(summary["buffers"]["full"]).records()}
        kept = list(client.buffer(summary["buffers"]["masked"]).records())
    assert {(4, 4), (4, 6), (6, 4)} <= grids
    assert all((record.keep_mask.any() and not record.keep_mask.all()) or record.keep_mask.size < 8 for record in kept)
    shapes = {e.image.shape for phase in range(3) for e in load_examples(out / "masked" / f"examples-{phase}.npz")}
    assert all(height % 8 == width % 8 == 0 for height, width, _ in shapes)
    shown = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in re.findall(r'webp;base64,([^"]+)', page)]
    assert len(shown) == 3 * 5
    assert {width / height for width, height in shown} <= {width / height for height, width, _ in shapes}


def test_a_run_on_other_data_starts_anew(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A class that comes first shifts the numbers of all others: nothing of the run before may be gone on from."""
    table = trees.folder_set(tmp_path / "set", classes=3, per_class=3)
    lines = []
    for name in ("class 3", "a new class"):
        assert run(table, "changed") == 0
        lines.append((tmp_path / "changed/masked/metrics.jsonl").read_text())
        rows = "".join(f"{trees.picture(tmp_path / 'set' / f'{name}{i}.png').name},new,{name}\n" for i in range(3))
        table.write_text(table.read_text() + rows)
    assert "is left from before this run began anew: deleted" in caplog.text
    assert json.loads(lines[1].splitlines()[-1])["classes_seen"] == 4
    assert run(table, "changed") == 0
    again = (tmp_path / "changed/masked/metrics.jsonl").read_text()
    assert run(table, "changed") == 0
    assert (tmp_path / "changed/masked/metrics.jsonl").read_text() == again != lines[1]


def test_imagenet_r_runs_from_its_folder(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `learner caption` left out, since it cannot be read, `learner run` leaves out too."""
    base = trees.imagenet_r(tmp_path / "set", classes=4)
    (base / "captions.csv").unlink()
    (base / "n01440001/art_2.jpg").write_bytes(b"not found")
    trees.picture(base / "n01440001/._art_3.jpg")
    found, written, bad = caption_folder(base, base / "captions.csv", lambda: lambda images: ["words"] * len(images))
    assert (found, written, len(bad)) == (0, 19, 1)
    assert run(tmp_path / "set", "paintings", data__name="imagenet-r") == 1
    assert f"cannot be used: {bad[0]}" in capsys.readouterr().out
    assert run(tmp_path / "set", "paintings", data__name="imagenet-r", data__bad_pictures="skip") == 0
    assert "4 classes of MM-ImageNet-R" in (tmp_path / "paintings" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__name": "imagenet-r"}, "hendrycks/imagenet-r.tar"),
        ({"data__name": "food101"}, "visiir.isir.upmc.fr"),
        ({"data__path": ""}, "data.path is not set"),
        ({"data__path": "nowhere.csv"}, "there is no folder and no table nowhere.csv"),
        ({"data__num_classes": 9}, "num_classes cannot be 9"),
        ({"data__base_classes": 9}, "data.base_classes is 9, but"),
        ({"data__columns__label": "species"}, "line 1 has no column 'species'; it has image, text, label"),
    ],
)
def test_what_does_not_go_together_is_said(
    changes: dict[str, object],
    words: str,
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(trees.folder_set(tmp_path / "set", classes=2, per_class=2), "wrong", **changes) == 1
    assert words in capsys.readouterr().out


def test_bad_rows_and_pictures_are_named(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = trees.folder_set(tmp_path / "set", classes=2, per_class=4)
    (tmp_path / "set/pictures/1/3.png").write_bytes(b"GIF89a")
    assert run(table, "bad") == 1
    said = capsys.readouterr().out
    assert "1 of 8 pictures cannot be used: labels.csv line 9: pictures/1/3.png: " in said
    assert "data.bad_pictures=skip" in said
    assert not (tmp_path / "bad").exists()
    table.write_bytes(table.read_bytes() + "pictures/0/1.png,café,class 0\n".encode("latin1"))
    assert run(table, "bad") == 1
    assert "labels.csv line 10 is not UTF-8 (byte 0xe9" in capsys.readouterr().out


def test_a_phase_that_nothing_is_tested_on_is_said(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = trees.folder_set(tmp_path / "set", classes=4, per_class=1)
    assert run(table, "untested") == 1
    assert "has a sample to test on: add some, or make phases larger" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("phases", "tests", "words"),
    [
        ([[0, 1], []], {"near": [0, 1]}, "phase 2 is empty"),
        ([[0, 1], [1]], {"near": [0, 1]}, "class 'b' is in two phases"),
        ([[0, 7]], {"near": [0]}, "class 7 of phase 1 has no sample to train on"),
        ([[0], [1]], {"near": [0]}, r"no class of phase 2 \('b'\) has a sample to test on"),
        ([[0], [1]], {"near": [0, 1], "far": [1]}, "split 'far' tests none of the classes of phase 1"),
        ([[0], [1]], {}, r"no class of phase 1 \('a'\) has a sample to test on"),
    ],
)
def test_a_problem_that_cannot_be_run_is_refused(
    phases: list[list[int]], tests: dict[str, list[int]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        Problem(
            train=make_split([0, 1], 2),
            tests={name: make_split(classes, 2) for name, classes in tests.items()},
            phases=phases,
            class_names=["a", "b"],
        )


def test_texts_are_cut_to_the_positions_that_a_backbone_has() -> None:
    small = small_vilt(hidden_size=64, num_layers=1, num_heads=1)
    assert backbone_facts(BackboneConfig(kind="small")).text_positions == small.shape.max_position_embeddings
    parts = vilt_from_parts(image_size=32, blocks=(0,))
    assert backbone_facts(BackboneConfig(kind="parts")).text_positions == parts.shape.max_position_embeddings


def test_a_caption_longer_than_the_positions_runs(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = trees.folder_set(tmp_path / "set", classes=2, per_class=4)
    table.write_text(table.read_text().replace("a thing, in red", "word " * 5000))
    assert run(table, "wordy", "none", data__max_text_tokens=10_000) == 0
    assert "4 of 8 texts are longer than 128 tokens (the backbone has no more positions)" in caplog.text
