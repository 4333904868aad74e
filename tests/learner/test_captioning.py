"""``learner caption``: real models, though tiny; the file grows, is resumed and is what MM-ImageNet-R reads."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image

from learner.cli import main
from learner.data.base import DataError
from learner.data.caption_table import CaptionsWriter, read_captions
from learner.data.load import load_data
from learner.data.settings import DataConfig
from learner.model.captioner import Captioner, caption_folder
from memory_format.command import INTERRUPTED
from tests.learner import tiny_captioners, trees

MODELS = {"instructblip": tiny_captioners.instructblip, "blip": tiny_captioners.blip, "llava": tiny_captioners.llava}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MODELS[request.param](tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """ImageNet-R without captions: 15 pictures."""
    base = trees.imagenet_r(tmp_path)
    (base / "captions.csv").unlink()
    return base


def _caption(pictures: Path, out: Path, model: Path | str, *more: str) -> int:
    options = ["--images", str(pictures), "--out", str(out), "--model", str(model), "--max-new-tokens", "6"]
    return main(["caption", *options, "--device", "cpu", "--prompt", tiny_captioners.PROMPT, *more])


def test_a_folder_is_captioned(model: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = pictures / "captions.csv"
    assert _caption(pictures, out, model, "--batch-size", "4") == 0
    assert "15 captions written, 0 were there" in capsys.readouterr().out
    with out.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "text"]
    assert [row[0] for row in rows[1:]] == sorted(p.relative_to(pictures).as_posix() for p in pictures.rglob("*.jpg"))
    texts = dict(rows[1:])
    # What the model says of a picture by itself is what it says in a batch, and other pictures get other words.
    by_itself = Captioner(str(model), prompt=tiny_captioners.PROMPT, max_new_tokens=6, device="cpu")
    for name in ("n01440000/art_0.jpg", "n01440002/art_4.jpg"):
        with Image.open(pictures / name) as image:
            assert by_itself([image]) == [texts[name]]
    assert len({texts[f"n0144{c:04d}/art_0.jpg"] for c in range(3)}) == 3
    assert all(text and tiny_captioners.PROMPT not in text for text in texts.values())
    # And it is what MM-ImageNet-R reads.
    config = DataConfig(
        name="imagenet-r", path=str(tmp_path), num_classes=0, train_per_class=0, image_size=16, base_classes=1
    )
    data = load_data(config, patch_px=8, directory=tmp_path / "data")
    assert data.train.texts == [texts[name] for name in data.train.sources]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_it_goes_on_where_it_stopped(
    suffix: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"captions.{suffix}"
    asked: list[int] = []

    class Fake:
        """In the place of the model: what is written when and where does not depend on it."""

        def __init__(self, name: str, **options: object) -> None:
            assert options["prompt"] == tiny_captioners.PROMPT

        def __call__(self, images: list[Image.Image]) -> list[str]:
            asked.append(len(images))
            if len(asked) == 3:
                raise KeyboardInterrupt
            return [f'red, "green"\nand {image.size}' for image in images]

    monkeypatch.setattr("learner.model.captioner.Captioner", Fake)
    assert _caption(pictures, out, "any", "--batch-size", "4") == INTERRUPTED
    assert "goes on from there" in capsys.readouterr().out
    assert len(read_captions(out, ())) == 8
    # As if the power had gone in the middle of a row.
    whole = out.read_bytes()
    out.write_bytes(whole[:-9])
    assert _caption(pictures, out, "any", "--batch-size", "4") == 0
    assert "8 captions written, 7 were there" in capsys.readouterr().out
    captions = read_captions(out, ())
    assert len(captions) == 15
    assert set(captions.values()) == {'red, "green" and (32, 24)'}
    assert out.read_bytes().startswith(whole[:100])
    # Nothing to do: no model is loaded.
    monkeypatch.setattr("learner.model.captioner.Captioner", None)
    assert _caption(pictures, out, "any") == 0
    assert "0 captions written, 15 were there" in capsys.readouterr().out


def test_bad_pictures_are_named_and_the_others_captioned(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "n01440001/art_2.jpg").write_bytes(b"not found")
    monkeypatch.setattr(
        "learner.model.captioner.Captioner", lambda name, **options: lambda images: ["words"] * len(images)
    )
    assert _caption(pictures, tmp_path / "out.csv", "any") == 1
    shown = capsys.readouterr().out
    assert "14 captions written" in shown
    assert "no caption: n01440001/art_2.jpg: is no picture that Pillow can read" in shown


_ODD_NAMES = [
    "plain_0.jpg",
    " lead.jpg",
    "a,b.jpg",
    'q"uote.jpg',
    "hash#1.jpg",
    "per%20cent.jpg",
    "back\\slash.jpg",
    "-dash.jpg",
    "cafe\u0301.jpg",
    "new\nline.jpg",
    "UPPER.JPG",
    "emoji\U0001f600.jpg",
    "semi;colon.jpg",
    "tab\t.jpg",
]


def _words(images: Sequence[Image.Image]) -> list[str]:
    return ["words"] * len(images)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_odd_names_are_captioned_once_and_read_back(suffix: str, tmp_path: Path) -> None:
    out = tmp_path / f"captions.{suffix}"
    for name in _ODD_NAMES:
        trees.picture(tmp_path / "set/n01440000" / name, format="JPEG")
        trees.picture(tmp_path / "set" / name, format="JPEG")
    assert caption_folder(tmp_path / "set", out, lambda: _words) == (0, 28, [])
    assert caption_folder(tmp_path / "set", out, lambda: _words) == (28, 0, [])
    config = DataConfig(
        name="imagenet-r", path=str(tmp_path / "set"), captions=str(out), num_classes=0, image_size=16, base_classes=1
    )
    data = load_data(config, patch_px=8, directory=tmp_path / "data")
    found = {*data.train.sources, *data.test["test"].sources}
    assert found == {f"n01440000/{name}" for name in _ODD_NAMES}


def test_a_name_that_no_table_can_hold_stops_no_other_caption(pictures: Path, tmp_path: Path) -> None:
    first = pictures / "n01440000/art_0.jpg"
    first.rename(first.with_name(os.fsdecode(b"caf\xe9.jpg")))
    bad = [r"n01440000/caf\udce9.jpg: its name is not UTF-8, so that no table can hold it; rename it"]
    for found, written in ((0, 14), (14, 0)):
        assert caption_folder(pictures, tmp_path / "c.csv", lambda: _words, batch_size=2) == (found, written, bad)
    assert len((tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()) == 15


def test_hidden_files_and_links_in_circles_are_no_pictures(pictures: Path, tmp_path: Path) -> None:
    for name in ("n01440000/._art_0.jpg", ".hidden/a.jpg", "__MACOSX/a.jpg", "n01440000/@eaDir/art_0.jpg"):
        trees.picture(pictures / name)
    (pictures / "n01440000/up").symlink_to(pictures)
    (pictures / "folder.jpg").mkdir()
    assert caption_folder(pictures, tmp_path / "c.csv", lambda: _words) == (0, 15, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": "nowhere"}, "there is no folder nowhere"),
        ({"images": "empty"}, "no pictures below empty"),
        ({"out": "captions.txt"}, "ends in .csv or .jsonl"),
        ({"model": "./nothing-here"}, "no captioning model at './nothing-here'"),
        ({"device": "cuda:99"}, "there is no device 'cuda:99'"),
        ({"out": "labels.csv"}, "labels.csv line 1 has no column 'text'; it has image, label"),
    ],
)
def test_what_is_wrong_is_said(
    changes: dict[str, str],
    words: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.csv").write_text("image,label\na.jpg,jay\n")
    options = {"images": str(pictures), "out": "out.csv", "model": "any/model", **changes}
    if "device" not in changes:
        options["device"] = "cpu"
    assert main(["caption", *(part for name, value in options.items() for part in (f"--{name}", value))]) == 1
    assert words in capsys.readouterr().out
    assert (tmp_path / "labels.csv").read_text() == "image,label\na.jpg,jay\n"


@pytest.mark.parametrize("option", [("--batch-size", "0"), ("--max-new-tokens", "many")])
def test_wrong_numbers_are_usage_errors(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _caption(Path("a"), Path("b.csv"), "c", *option)
    assert stop.value.code == 2
    assert f"must be a whole number from 1 on, got '{option[1]}'" in capsys.readouterr().err


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Callable[[bytes], CaptionsWriter]]:
    opened: list[CaptionsWriter] = []

    def make(data: bytes) -> CaptionsWriter:
        (tmp_path / "c.csv").write_bytes(data)
        opened.append(CaptionsWriter(tmp_path / "c.csv", ()))
        return opened[-1]

    yield make
    for each in opened:
        each.__exit__(None, None, None)


class TestCaptionsFile:
    def test_a_backslash_stands_for_a_folder_unless_a_picture_is_named_so(self, tmp_path: Path) -> None:
        file = tmp_path / "c.csv"
        file.write_text("image,text\nn1\\a.jpg,one\nn1\\b.jpg,two\n")
        assert read_captions(file, {"n1/a.jpg", "n1\\b.jpg", "n1/b.jpg"}) == {"n1/a.jpg": "one", "n1\\b.jpg": "two"}
        file.write_text("image,text\nn1\\a.jpg,one\nn1/a.jpg,two\n")
        with pytest.raises(DataError, match=r"line 3: n1/a\.jpg has another text than in c\.csv line 2"):
            read_captions(file, {"n1/a.jpg"})

    def test_a_file_written_by_hand_loses_nothing(
        self, writer: Callable[[bytes], CaptionsWriter], tmp_path: Path
    ) -> None:
        writer(b'image,text\na.jpg,"two\nlines"\nb.jpg,no newline at the end').append([("c.jpg", "x")])
        assert read_captions(tmp_path / "c.csv", ()) == {
            "a.jpg": "two\nlines",
            "b.jpg": "no newline at the end",
            "c.jpg": "x",
        }

    def test_a_damaged_file_is_left_as_it_is(self, tmp_path: Path) -> None:
        data = b'image,text\na.jpg,one,two\n"b.jpg","x'
        (tmp_path / "c.csv").write_bytes(data)
        with pytest.raises(DataError, match="line 2 has 3 fields"):
            CaptionsWriter(tmp_path / "c.csv", ())
        assert (tmp_path / "c.csv").read_bytes() == data

    def test_a_file_that_was_cut_in_its_header_starts_anew(
        self, writer: Callable[[bytes], CaptionsWriter], tmp_path: Path
    ) -> None:
        writer(b'"image","te').append([("a.jpg", "x")])
        assert read_captions(tmp_path / "c.csv", ()) == {"a.jpg": "x"}

    def test_only_one_process_writes(self, writer: Callable[[bytes], CaptionsWriter], tmp_path: Path) -> None:
        writer(b"")
        with pytest.raises(DataError, match="another process is writing"):
            CaptionsWriter(tmp_path / "c.csv", ())
