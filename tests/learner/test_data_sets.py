"""Data sets in files: what their published layouts become, and what is said where they are not as they should be."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from learner.data.base import DataError, MultimodalData
from learner.data.load import LISTINGS, load_data
from learner.data.pictures import PictureFile
from learner.data.settings import Columns, DataConfig, DataName, HubConfig
from tests.learner import trees

SMALL = {"num_classes": 0, "train_per_class": 0, "test_per_class": 0, "image_size": 16, "base_classes": 1}


@pytest.fixture
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., MultimodalData]:
    """Loads small sets; what was found out about their pictures is kept in a folder of its own."""
    directory = tmp_path_factory.mktemp("data")

    def load(name: str, path: Path | str, **changes: object) -> MultimodalData:
        config = DataConfig(name=name, path=str(path), **{**SMALL, **changes})  # type: ignore[arg-type]
        return load_data(config, patch_px=8, directory=directory)

    return load


def _colours(data: MultimodalData, split: str) -> list[tuple[int, ...]]:
    part = data.train if split == "train" else data.test[split]
    return [tuple(int(value > 127) for value in part.images[i].mean((0, 1))) for i in range(len(part))]


class TestFolder:
    def test_a_table_becomes_a_data_set(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        data = load("folder", trees.folder_set(tmp_path / "birds"))
        assert data.name == "birds"
        assert data.class_names == [f"class {c}" for c in range(4)]
        # 8 of each class: a fifth, rounded, is tested on.
        assert np.bincount(data.train.class_ids).tolist() == [6] * 4
        assert np.bincount(data.test["test"].class_ids).tolist() == [2] * 4
        assert not set(data.train.sources) & set(data.test["test"].sources)
        expected = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
        for split in ("train", "test"):
            part = data.train if split == "train" else data.test[split]
            assert _colours(data, split) == [expected[c] for c in part.class_ids]
        assert {data.train.images[i].shape for i in range(len(data.train))} == {(16, 16, 3), (16, 24, 3), (24, 16, 3)}

    def test_the_split_is_drawn_by_its_seed(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        table = trees.folder_set(tmp_path)
        one, again, other = (load("folder", table, split_seed=seed) for seed in (0, 0, 1))
        assert one.train.sources == again.train.sources != other.train.sources

    def test_its_own_split_is_taken(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        rows = [["split", "file", "caption", "bird"]]
        for i, split in enumerate(["train", "Train", "test", "test_sketch", "val"]):
            trees.picture(tmp_path / f"{i}.png")
            rows.append([split, f"{i}.png", "seen", "jay"])
        columns = Columns(image="file", text="caption", label="bird")
        data = load("folder", trees.write_table(tmp_path / "birds.tsv.csv", rows), columns=columns)
        assert data.train.sources == ["0.png", "1.png"]
        assert {name: split.sources for name, split in data.test.items()} == {
            "test": ["2.png"],
            "test-sketch": ["3.png"],
        }

    def test_other_tables_are_read_too(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        for i in range(4):
            trees.picture(tmp_path / f"{i}.png")
        rows = "".join(f'{i}.png\t"a, b ""c"""\tx\n' for i in range(4))
        (tmp_path / "a.tsv").write_text("image\ttext\tlabel\n" + rows)
        (tmp_path / "a.jsonl").write_text(
            "\n".join(f'{{"image": "{i}.png", "text": "a, b \\"c\\"", "label": "x"}}' for i in range(4))
        )
        one, other = (load("folder", tmp_path / name) for name in ("a.tsv", "a.jsonl"))
        assert one.train.texts == other.train.texts == ['a, b "c"'] * 3

    def test_parts_of_it_are_drawn(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        table = trees.folder_set(tmp_path)
        more = [trees.picture(tmp_path / f"more{i}.png", "blue").name for i in range(3)]
        table.write_text(table.read_text() + "".join(f"{name},more,class 2\n" for name in more))
        data = load("folder", table, num_classes=2, train_per_class=3, test_per_class=1)
        # The one with the most samples, and of those with as many the first by name.
        assert data.class_names == ["class 0", "class 2"]
        assert np.bincount(data.train.class_ids).tolist() == [3, 3]
        assert np.bincount(data.test["test"].class_ids).tolist() == [1, 1]

    def test_a_picture_with_several_texts_stays_in_one_split(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        rows = [["image", "text", "label"]]
        for i in range(6):
            trees.picture(tmp_path / f"{i}.png")
            rows += [[f"{i}.png", f"text {j}", "x"] for j in range(3)]
        data = load("folder", trees.write_table(tmp_path / "labels.csv", rows), test_share=0.5)
        assert (len(data.train), len(data.test["test"])) == (9, 9)
        assert not set(data.train.sources) & set(data.test["test"].sources)

    @pytest.mark.parametrize(
        ("file", "first", "second"),
        [
            ("labels.jsonl", '["a red bird", "a bird"]', '"alone"'),
            ("labels.csv", '"[""a red bird"", ""a bird""]"', "alone"),
            ("labels.csv", "\"['a red bird', 'a bird']\"", "[alone]"),
        ],
    )
    def test_several_captions_in_a_list_are_a_row_each(
        self, file: str, first: str, second: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        """Also where a text spells the list out, as pandas and Flickr30k's own table do."""
        lines = [] if file.endswith(".jsonl") else ["image,text,label"]
        row = '{{"image": "{}", "text": {}, "label": ["x"]}}' if file.endswith(".jsonl") else "{},{},\"['x']\""
        for i in range(6):
            trees.picture(tmp_path / f"{i}.png")
            lines.append(row.format(f"{i}.png", second if i == 5 else first))
        (tmp_path / file).write_text("\n".join(lines))
        data = load("folder", tmp_path / file, test_share=0.5)
        texts = [text for split in (data.train, data.test["test"]) for text in split.texts]
        assert sorted(texts) == sorted(["a red bird", "a bird"] * 5 + [second.strip('"')])
        assert data.class_names == ["x"]
        # The captions of one picture are all trained on, or all tested on.
        assert len(set(data.train.sources)) == len(set(data.test["test"].sources)) == 3
        assert not set(data.train.sources) & set(data.test["test"].sources)

    def test_numbers_are_classes_as_people_write_them(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        values = ["1.0", "[2]", "true", "0.5", '"x"']
        for i in range(len(values)):
            trees.picture(tmp_path / f"{i}.png")
        rows = (f'{{"image": "{i}.png", "text": NaN, "label": {value}}}\n' for i, value in enumerate(values))
        (tmp_path / "labels.jsonl").write_text("".join(rows))
        data = load("folder", tmp_path / "labels.jsonl")
        assert data.class_names == ["0.5", "1", "2", "true", "x"]
        assert set(data.train.texts) == {""}

    def test_a_class_of_one_sample_is_trained_on(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        table = trees.folder_set(tmp_path)
        trees.picture(tmp_path / "rare.png")
        table.write_text(table.read_text() + "rare.png,rare,a rare one\n")
        data = load("folder", table)
        rare = data.class_names.index("a rare one")
        assert (data.train.class_ids == rare).sum() == 1
        assert not (data.test["test"].class_ids == rare).any()

    def test_repeated_rows_count_once(
        self, load: Callable[..., MultimodalData], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = trees.folder_set(tmp_path)
        lines = table.read_text().splitlines()
        table.write_text("\n".join([*lines, lines[3], lines[9]]) + "\n")
        data = load("folder", table)
        assert len(data.train) + len(data.test["test"]) == 32
        assert "2 repeated rows are left out (the first: labels.csv line 34)" in caplog.text

    def test_a_text_may_be_missing(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        rows = [["image", "text", "label"], *([trees.picture(tmp_path / f"{i}.png").name, "", "x"] for i in range(3))]
        assert load("folder", trees.write_table(tmp_path / "labels.csv", rows)).train.texts == ["", ""]

    def test_bad_pictures_stop_it_or_are_left_out(
        self, load: Callable[..., MultimodalData], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        table = trees.folder_set(tmp_path, classes=2)
        (tmp_path / "pictures/0/1.png").unlink()
        damaged = tmp_path / "pictures/1/2.png"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError) as error:
            load("folder", table)
        assert "2 of 16 pictures cannot be used: labels.csv line 3: pictures/0/1.png: there is no such file" in str(
            error.value
        )
        assert "labels.csv line 12: pictures/1/2.png: is damaged" in str(error.value)
        assert "data.bad_pictures=skip" in str(error.value)
        data = load("folder", table, bad_pictures="skip")
        assert len(data.train) + len(data.test["test"]) == 14
        assert "They are left out" in caplog.text
        table.write_text(table.read_text() + "pictures/0/1.png,another text,class 0\n")
        data = load("folder", table, bad_pictures="skip")
        assert len(data.train) + len(data.test["test"]) == 14
        # Mended files are looked at again.
        trees.picture(tmp_path / "pictures/0/1.png")
        damaged.write_bytes(whole)
        data = load("folder", table)
        assert len(data.train) + len(data.test["test"]) == 17

    def test_pictures_are_looked_at_once(
        self, load: Callable[..., MultimodalData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = trees.folder_set(tmp_path, classes=1)
        load("folder", table)
        opened: list[object] = []
        monkeypatch.setattr(Image, "open", opened.append)
        load("folder", table, split_seed=3)
        assert opened == []

    def test_a_picture_that_another_installation_reads_is_taken_again(
        self, load: Callable[..., MultimodalData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither size nor time of the file change when what was wrong lay elsewhere."""
        table = trees.folder_set(tmp_path, classes=1)
        Image.new("RGB", (24, 24), "red").save(tmp_path / "one.webp")
        table.write_text(table.read_text() + "one.webp,one,class 0\n")
        Image.init()
        with monkeypatch.context() as without_webp:
            without_webp.setattr(Image, "ID", [name for name in Image.ID if name != "WEBP"])
            with pytest.raises(DataError, match=r"1 of 9 pictures .* one\.webp: is no picture that Pillow can read"):
                load("folder", table)
            # Nor is what was good asked again because one was bad.
            assert len(load("folder", table, bad_pictures="skip").train) == 6
        assert len(load("folder", table).train) + 2 == 9

    def test_what_is_remembered_of_pictures_may_be_damaged(self, tmp_path: Path) -> None:
        table, directory = trees.folder_set(tmp_path / "set", classes=1), tmp_path / "data"
        config = DataConfig(name="folder", path=str(table), **SMALL)  # type: ignore[arg-type]
        load_data(config, patch_px=8, directory=directory)
        (remembered,) = (directory / "built").iterdir()
        whole = remembered.read_bytes()
        remembered.write_bytes(b"{")
        load_data(config, patch_px=8, directory=directory)
        assert remembered.read_bytes() == whole

    @pytest.mark.parametrize(
        ("there", "named"),
        [
            ("p/a.png", "p\\a.png"),
            ("p\\a.png", "p\\a.png"),
            (" a.png", " a.png"),
            ("a.png", " a.png "),
            ("./p/../a.png", "a.png"),
            ("cafe\u0301/a.png", "caf\u00e9/a.png"),
            ("caf\u00e9/a.png", "cafe\u0301\\a.png"),
        ],
    )
    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_names_are_taken_as_they_are_or_as_other_systems_write_them(
        self, there: str, named: str, suffix: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        trees.picture(tmp_path / there, "blue")
        rows = {
            "csv": f'image,text,label\n"{named}",t,x\n',
            "jsonl": f'{{"image": {json.dumps(named)}, "text": "t", "label": "x"}}',
        }
        (tmp_path / f"labels.{suffix}").write_text(rows[suffix])
        data = load("folder", tmp_path / f"labels.{suffix}")
        assert _colours(data, "train") == [(0, 0, 1)]
        assert data.train.sources == [os.path.normpath(there)]

    def test_a_backslash_in_a_name_is_no_folder_where_both_are_there(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        trees.picture(tmp_path / "p/a.png", "blue")
        trees.picture(tmp_path / "p\\a.png", "red")
        table = trees.write_table(
            tmp_path / "labels.csv", [["image", "text", "label"], ["p\\a.png", "t", "x"], ["p/a.png", "t", "y"]]
        )
        assert _colours(load("folder", table), "train") == [(1, 0, 0), (0, 0, 1)]

    def test_a_picture_under_two_names_is_in_one_split(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        trees.picture(tmp_path / "p/a.png")
        rows = [
            ["image", "text", "label", "split"],
            ["p/a.png", "t", "x", "train"],
            ["p\\..\\p\\a.png", "t", "x", "test"],
        ]
        with pytest.raises(
            DataError, match=r"line 3: p/a\.png is in 'test', but labels\.csv line 2 puts it in 'train'"
        ):
            load("folder", trees.write_table(tmp_path / "labels.csv", rows))

    def test_a_class_whose_accents_are_written_in_two_ways_is_one(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        table = trees.folder_set(tmp_path, classes=2)
        text = table.read_text().replace("class 0", "caf\u00e9", 4).replace("class 0", "cafe\u0301")
        table.write_text(text)
        assert load("folder", table).class_names == ["caf\u00e9", "class 1"]

    def test_a_folder_whose_name_is_not_utf8_is_read(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        root = tmp_path / os.fsdecode(b"caf\xe9")
        assert len(load("folder", trees.folder_set(root)).train) == 24

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "has no rows"),
            (b"image,text,label\n", "has no rows"),
            (b"image,text,class\na.png,x,y\n", "line 1 has no column 'label'; it has image, text, class"),
            (b"image,text,label\na.png,caf\xe9,x\n", r"line 2 is not UTF-8 \(byte 0xe9"),
            (b"image,text,label\na.png,one, two,x\n", "line 2 has 4 fields where the columns are image, text, label"),
            (b'image,text,label\na.png,"one,x\n', "line 2 is not CSV: unexpected end of data"),
            (
                b'image,text,label\na.png,one,x\na.png,"two,x\na.png,three,x\na.png,"four, five",x\n',
                "line 3 is not CSV: read on to line 5: ',' expected",
            ),
            (b"image,text,label,label\na.png,one,x,y\n", "line 1 has more than one column 'label'"),
            (b"image;text;label\na.png;one;x\n", "line 1 has no column .* separated by semicolons"),
            ("image,text,label\na.png,one,x\n".encode("utf-16"), "is not UTF-8 but UTF-16; `iconv -f utf-16"),
            (b"image,text,label\na.png,one,\"['x', 'y']\"\n", r"line 2: column 'label' holds a list of 2 values"),
            (b"image,text,label\na.png,\"['one' 'two']\",x\n", r"line 2: column 'text' seems to hold a list"),
            (b"image,text,label\na.png,one\0two,x\na.png,one,\n", "line 3: no class is given"),
            (b"image,text,label\na.png,one,\n", "line 2: no class is given"),
            (b"image,text,label\n,one,x\n", "line 2: no picture is named in column 'image'"),
            (b"image,text,label\na\0.png,one,x\n", "line 2: a\0.png: "),
            (b"image,text,label\na.png,one,x\n\na.png,two,y\n", "line 4: a.png is of class 'y', but .*line 2 says 'x'"),
            (b"image,text,label,split\na.png,one,x,trian\n", "line 2: the split must be train, test, .* not 'trian'"),
            (b"image,text,label,split\na.png,one,x,train\n./a.png,one,x,test\n", "a.png is in 'test', but .* 'train'"),
            (b"image,text,label,split\na.png,one,x,test\n", "no sample to train on of 'x'"),
            (b"image,text,label,split\na.png,one,x,val\n", "all 1 rows are of a validation split"),
            (b'image,text,label\na.png,"two\nlines",x\na.png,b\n', "line 4 has 2 fields"),
        ],
    )
    def test_what_is_wrong_with_a_table_is_said(
        self, content: bytes, words: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        trees.picture(tmp_path / "a.png")
        (tmp_path / "labels.csv").write_bytes(content)
        with pytest.raises(DataError, match=words):
            load("folder", tmp_path)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('{"image": "a.png", "text": "x", "label": "y"}\n{"image": \n', "line 2 is not JSON"),
            ("[1]\n", "line 1 must be an object"),
            ('{"image": "a.png", "text": "x"}\n', "line 1 has no column 'label'"),
            (
                '{"image": "a.png", "text": "x", "label": "y", "label": "z"}\n',
                "line 1 has more than one column 'label'",
            ),
            (
                '{"image": "a.png", "text": "x", "label": ["y", "z"]}\n',
                "line 1: column 'label' holds a list of 2 values",
            ),
            ('{"image": ["a.png", "b.png"], "text": "x", "label": "y"}\n', "line 1: column 'image' holds a list of 2"),
            (
                '{"image": "a.png", "text": {"en": "x"}, "label": "y"}\n',
                "line 1: column 'text' holds an object, .*'en'",
            ),
            ('{"image": "a.png", "text": [["x"]], "label": "y"}\n', "line 1: column 'text' holds a list within a list"),
            ('{"image": "a.png", "text": "\\ud800", "label": "y"}\n', "line 1: column 'text' is no Unicode text"),
            ('{"image": "a.png", "text": "x", "label": []}\n', "line 1: no class is given"),
            ('{"image": "a.png", "text": "x", "label": ' + "[" * 100_000 + "\n", "line 1 is not JSON"),
            ("", "has no rows"),
        ],
    )
    def test_what_is_wrong_with_json_lines_is_said(
        self, content: str, words: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        (tmp_path / "labels.jsonl").write_text(content)
        with pytest.raises(DataError, match=words):
            load("folder", tmp_path / "labels.jsonl")


class TestImageNetR:
    def test_its_layout_is_read(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        trees.imagenet_r(tmp_path)
        data = load("imagenet-r", tmp_path)
        assert data.name == "MM-ImageNet-R"
        assert data.class_names == ["goldfish", "great white shark", "n01440002"]
        assert np.bincount(data.train.class_ids).tolist() == [4, 4, 4]
        assert np.bincount(data.test["test"].class_ids).tolist() == [1, 1, 1]
        assert [text.split()[-1] for text in data.train.texts[::4]] == ["red", "lime", "blue"]
        assert _colours(data, "train")[::4] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]

    def test_captions_may_lie_elsewhere_and_start_higher(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        base = trees.imagenet_r(tmp_path)
        rows = [line.split(",") for line in (base / "captions.csv").read_text().splitlines()[1:]]
        (base / "captions.csv").unlink()
        file = tmp_path / "texts.jsonl"
        file.write_text("".join(f'{{"image": "imagenet-r/{name}", "text": "{text}"}}\n' for name, text in rows))
        assert len(load("imagenet-r", base, captions=str(file)).train) == 12

    def test_missing_captions_are_said(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        base = trees.imagenet_r(tmp_path)
        lines = (base / "captions.csv").read_text().splitlines()
        (base / "captions.csv").write_text("\n".join(lines[:-2]) + "\n")
        with pytest.raises(DataError, match=r"2 of 15 pictures have no text .*art_3\.jpg.*`learner caption --images"):
            load("imagenet-r", tmp_path)
        (base / "captions.csv").write_text("\n".join([*lines, lines[1] + " and more"]) + "\n")
        with pytest.raises(
            DataError, match=r"line 17: n01440000/art_0\.jpg has another text than in captions\.csv line 2"
        ):
            load("imagenet-r", tmp_path)
        (base / "captions.csv").unlink()
        with pytest.raises(DataError, match=r"no captions file .*`learner caption --images"):
            load("imagenet-r", tmp_path)

    def test_pictures_without_a_caption_are_not_all_opened(
        self, load: Callable[..., MultimodalData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = trees.imagenet_r(tmp_path)
        lines = (base / "captions.csv").read_text().splitlines()
        (base / "captions.csv").write_text("\n".join([lines[0], *lines[7:]]) + "\n")
        opened: list[str] = []

        def open_(picture: PictureFile) -> Path:
            opened.append(picture.name)
            return picture.path

        monkeypatch.setattr(PictureFile, "open", open_)
        with pytest.raises(DataError, match=r"6 of 15 pictures have no text .*\(such as n01440000/art_0\.jpg\)"):
            load("imagenet-r", tmp_path)
        assert opened == ["n01440000/art_0.jpg"]
        opened.clear()
        data = load("imagenet-r", tmp_path, missing_texts="skip")
        assert len(data.train) + len(data.test["test"]) == 9
        assert sorted(opened) == sorted(line.partition(",")[0] for line in lines[7:])

    @pytest.mark.parametrize("how", ["cut", "not UTF-8"])
    def test_a_picture_without_a_caption_because_it_cannot_be_read_is_a_bad_picture(
        self, how: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        base = trees.imagenet_r(tmp_path)
        lines = (base / "captions.csv").read_text().splitlines()
        (base / "captions.csv").write_text("\n".join(lines[:-1]) + "\n")
        picture = base / "n01440002/art_4.jpg"
        if how == "cut":
            picture.write_bytes(picture.read_bytes()[:200])
        else:
            picture.rename(picture.with_name(os.fsdecode(b"art_\xe9.jpg")))
        words = {"cut": r"art_4\.jpg: is ", "not UTF-8": r"art_\\udce9\.jpg: its name is not UTF-8.* rename it"}
        with pytest.raises(DataError, match=f"1 of 15 pictures cannot be used: n01440002/{words[how]}"):
            load("imagenet-r", tmp_path)
        data = load("imagenet-r", tmp_path, bad_pictures="skip")
        assert len(data.train) + len(data.test["test"]) == 14
        # One that can be read is still missed.
        (base / "captions.csv").write_text("\n".join(lines[:-2]) + "\n")
        with pytest.raises(DataError, match=r"2 of 15 pictures have no text .*\(such as n01440002/art_3\.jpg\)"):
            load("imagenet-r", tmp_path, bad_pictures="skip")

    def test_what_macs_and_storage_put_beside_pictures_is_passed_by(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        base = trees.imagenet_r(tmp_path)
        for name in (
            "n01440000/._art_0.jpg",
            ".n01440000/art_0.jpg",
            "__MACOSX/n01440000/._art_0.jpg",
            "n01440000/.DS_Store",
        ):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(b"\0\5\x16\7" + bytes(100))
        (base / "n01440000/Thumbs.db").write_bytes(b"x")
        data = load("imagenet-r", tmp_path)
        assert len(data.train) + len(data.test["test"]) == 15

    def test_classes_may_be_links(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        base = trees.imagenet_r(tmp_path / "all")
        (tmp_path / "some").mkdir()
        for wnid in ("n01440000", "n01440001"):
            (tmp_path / "some" / wnid).symlink_to(base / wnid)
        data = load("imagenet-r", tmp_path / "some", captions=str(base / "captions.csv"))
        assert len(data.train) + len(data.test["test"]) == 10

    def test_where_to_get_it_is_said(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        for path in ("", tmp_path, tmp_path / "nowhere"):
            with pytest.raises(DataError, match=r"hendrycks/imagenet-r\.tar .*imagenet-r/<WordNet id>/<picture>\.jpg"):
                load("imagenet-r", path)


class TestFood101:
    @pytest.mark.parametrize("header", [False, True])
    def test_its_layout_is_read(self, header: bool, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        data = load("food101", trees.food101(tmp_path, header=header))
        assert data.name == "UPMC Food-101"
        assert data.class_names == ["apple pie", "ramen"]
        assert np.bincount(data.train.class_ids).tolist() == [4, 4]
        assert np.bincount(data.test["test"].class_ids).tolist() == [2, 2]
        assert data.train.texts[0] == 'The best "apple_pie", easy | blog'
        assert _colours(data, "test") == [(1, 0, 0)] * 2 + [(0, 1, 0)] * 2

    def test_a_quote_that_is_never_closed_is_named_where_it_is_opened(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        titles = trees.food101(tmp_path) / "texts/train_titles.csv"
        lines = titles.read_text().splitlines()
        lines[2] = 'apple_pie_2.jpg,"The best pie, ever,apple_pie'
        titles.write_text("\n".join([*lines[:3], "apple_pie_3.jpg,plain,apple_pie", *lines[4:]]))
        with pytest.raises(DataError, match=r"train_titles\.csv line 3 is not CSV: read on to line 5"):
            load("food101", tmp_path)

    def test_pictures_that_its_tables_promise_may_be_missing(
        self, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        root = trees.food101(tmp_path)
        (root / "images/train/ramen/ramen_2.jpg").unlink()
        with pytest.raises(
            DataError, match=r"train_titles\.csv line 7: train/ramen/ramen_2\.jpg: there is no such file"
        ):
            load("food101", root)
        assert len(load("food101", root, bad_pictures="skip").train) == 7
        # A title in the place of a name is longer than a file's may be.
        titles = root / "texts/train_titles.csv"
        titles.write_text(titles.read_text() + f"{'A very long title ' * 20},x,ramen\n")
        assert len(load("food101", root, bad_pictures="skip").train) == 7

    def test_the_json_files_that_go_around_are_read(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        root = trees.food101_json(tmp_path)
        data = load("food101", root)
        assert data.class_names == ["apple pie", "ramen"]
        assert np.bincount(data.train.class_ids).tolist() == [3, 3]
        assert np.bincount(data.test["test"].class_ids).tolist() == [2, 2]
        assert data.train.texts[0] == 'The best "apple_pie_0.jpg"'
        assert _colours(data, "test") == [(1, 0, 0)] * 2 + [(0, 1, 0)] * 2
        titles = json.loads((root / "text.json").read_text())
        del titles["ramen_1.jpg"]
        (root / "text.json").write_text(json.dumps(titles))
        with pytest.raises(DataError, match=r"1 of 10 pictures have no text in text\.json \(such as ramen_1\.jpg\)"):
            load("food101", root)
        skipped = load("food101", root, missing_texts="skip")
        assert len(skipped.train) == 5
        assert any("have no text in text.json (such as ramen_1.jpg): they are left out" in n for n in skipped.notes)
        assert load("food101", root, missing_texts="empty").train.texts.count("") == 1

    @pytest.mark.parametrize(
        ("file", "content", "words"),
        [
            ("split.json", "[]", r"split\.json must hold an object"),
            ("split.json", "{", r"split\.json is not JSON"),
            ("split.json", '{"train": "ramen_1.jpg"}', r"split\.json: 'train' must be a list"),
            ("split.json", '{"tarin": []}', r"split\.json: the split must be train, .* not 'tarin'"),
            ("split.json", '{"train": [], "train": []}', r"split\.json has more than one column 'train'"),
            ("split.json", '{"train": ["ramen.jpg"]}', "number 1 of 'train': 'ramen.jpg' must be CLASS_NUMBER.jpg"),
            ("split.json", '{"train": ["raamen_1.jpg"]}', "'raamen_1.jpg' must be .* of a class in class_idx.json"),
            ("split.json", '{"train": [["a", "b"]]}', "number 1 of 'train' holds a list of 2 values"),
            ("split.json", "{}", "UPMC Food-101 has no samples"),
            ("text.json", '{"ramen_1.jpg": {"title": "x"}}', r"text\.json: 'ramen_1\.jpg' holds an object"),
            ("text.json", None, "there is no table .*text.json"),
        ],
    )
    def test_what_is_wrong_with_them_is_said(
        self, file: str, content: str | None, words: str, load: Callable[..., MultimodalData], tmp_path: Path
    ) -> None:
        path = trees.food101_json(tmp_path) / file
        path.write_text(content) if content is not None else path.unlink()
        with pytest.raises(DataError, match=words):
            load("food101", tmp_path)

    def test_where_to_get_it_is_said(self, load: Callable[..., MultimodalData], tmp_path: Path) -> None:
        root = trees.food101(tmp_path / "food")
        (root / "texts/test_titles.csv").unlink()
        for path in ("", tmp_path, root):
            with pytest.raises(
                DataError, match=r"visiir\.isir\.upmc\.fr.*images/train/<class>/\*\.jpg.*test_titles\.csv"
            ):
                load("food101", path)


class TestHub:
    @pytest.fixture
    def parquet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A local folder in Parquet, as data sets lie on the hub."""
        datasets = pytest.importorskip("datasets", reason="the optional package `datasets` is not installed")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        datasets.disable_progress_bars()
        features = datasets.Features(
            {
                "photo": datasets.Image(),
                "caption": datasets.Value("string"),
                "species": datasets.ClassLabel(names=["wren", "jay"]),
            }
        )
        folder = tmp_path / "birds"
        folder.mkdir()
        for split, count in (("train", 4), ("test", 2)):
            rows = [
                {
                    "photo": str(trees.picture(tmp_path / f"{split}{i}{c}.png", trees.COLOURS[c], seed=i)),
                    "caption": None if i == 1 else f"bird {i}",
                    "species": c,
                }
                for c in range(2)
                for i in range(count)
            ]
            datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
        return folder

    COLUMNS = Columns(image="photo", text="caption", label="species")

    def test_a_data_set_is_read(self, parquet: Path, load: Callable[..., MultimodalData]) -> None:
        data = load("hub", parquet, columns=self.COLUMNS)
        assert data.class_names == ["jay", "wren"]
        assert np.bincount(data.train.class_ids).tolist() == [4, 4]
        assert data.train.texts == ["bird 0", "", "bird 2", "bird 3"] * 2
        assert _colours(data, "train") == [(0, 1, 0)] * 4 + [(1, 0, 0)] * 4
        assert len(data.test["test"]) == 4

    def test_without_a_test_split_some_are_held_out(self, parquet: Path, load: Callable[..., MultimodalData]) -> None:
        data = load("hub", parquet, columns=self.COLUMNS, hub=HubConfig(test_split=""), test_share=0.25)
        assert (len(data.train), len(data.test["test"])) == (6, 2)

    @pytest.fixture
    def of_rows(self, tmp_path: Path, parquet: Path) -> Callable[..., Path]:
        """A data set of one split whose rows are given, without their pictures."""
        import datasets

        def make(**columns: list[object]) -> Path:
            rows = len(next(iter(columns.values())))
            photos = [str(trees.picture(tmp_path / f"{i}.png", seed=i)) for i in range(rows)]
            made = datasets.Dataset.from_dict({"image": photos, **columns}).cast_column("image", datasets.Image())
            (tmp_path / "rows").mkdir()
            made.to_parquet(tmp_path / "rows/train.parquet")
            return tmp_path / "rows"

        return make

    ONE_SPLIT = HubConfig(test_split="")
    LEFT_OPEN = r"ignore:.*metadata\.csv:pytest.PytestUnraisableExceptionWarning"

    def test_several_captions_in_a_list_are_a_row_each(
        self, of_rows: Callable[..., Path], load: Callable[..., MultimodalData]
    ) -> None:
        path = of_rows(text=[["a jay", "one bird"]] * 6, label=[["jay"]] * 6)
        data = load("hub", path, hub=self.ONE_SPLIT, test_share=0.5)
        assert data.train.texts == data.test["test"].texts == ["a jay", "one bird"] * 3
        assert data.class_names == ["jay"]
        assert not set(data.train.sources) & set(data.test["test"].sources)

    @pytest.fixture
    def class_folders(self, tmp_path: Path, parquet: Path) -> Iterator[Callable[..., Path]]:
        """Pictures in folders by class, with a metadata file beside them whose columns are given."""

        def make(columns: list[str], *rows: list[str]) -> Path:
            root = tmp_path / "folders"
            for bird, colour in (("jay", "blue"), ("wren", "red")):
                for i in range(2):
                    trees.picture(root / f"train/{bird}/{i}.png", colour, seed=i)
            trees.write_table(root / "train/metadata.csv", [["file_name", *columns], *rows])
            return root

        yield make
        gc.collect()  # `datasets` leaves the metadata file open: let it be closed here, where that is expected

    @pytest.mark.filterwarnings(LEFT_OPEN)
    def test_class_folders_beside_a_metadata_file_keep_their_labels(
        self, class_folders: Callable[..., Path], load: Callable[..., MultimodalData]
    ) -> None:
        names = [f"{bird}/{i}.png" for bird in ("jay", "wren") for i in range(2)]
        data = load("hub", class_folders(["text"], *([name, f"of {name}"] for name in names)), hub=self.ONE_SPLIT)
        assert data.class_names == ["jay", "wren"]
        assert _colours(data, "train") == [(0, 0, 1), (1, 0, 0)]
        assert [text[:6] for text in data.train.texts] == ["of jay", "of wre"]

    @pytest.mark.filterwarnings(LEFT_OPEN)
    def test_labels_of_a_metadata_file_go_with_the_folders(
        self, class_folders: Callable[..., Path], load: Callable[..., MultimodalData]
    ) -> None:
        """Names of other kinds are nobody's mistake; the name of another folder is."""
        rows = [[f"{bird}/{i}.png", "t", f"a {bird}"] for bird in ("jay", "wren") for i in range(2)]
        path = class_folders(["text", "label"], *rows)
        assert load("hub", path, hub=self.ONE_SPLIT).class_names == ["a jay", "a wren"]
        rows = [[f"{bird}/{i}.png", "t", "jay"] for bird in ("jay", "wren") for i in range(2)]
        path = class_folders(["text", "label"], *rows)
        with pytest.raises(
            DataError, match=r"row 2: the class is 'jay' in column 'label', but .* lies in folder 'wren'"
        ):
            load("hub", path, hub=self.ONE_SPLIT)

    @pytest.mark.filterwarnings(LEFT_OPEN)
    @pytest.mark.parametrize(
        ("described", "words"),
        [
            ("test", "no sample to train on has a text, but samples of test have"),
            ("train", "a metadata.csv must lie in the folder of each split"),
        ],
    )
    def test_a_metadata_file_for_one_split_only_is_said(
        self, described: str, words: str, parquet: Path, tmp_path: Path, load: Callable[..., MultimodalData]
    ) -> None:
        root = tmp_path / "half"
        names = [f"{bird}/{i}.png" for bird in ("jay", "wren") for i in range(2)]
        for split in ("train", "test"):
            for name in names:
                trees.picture(root / split / name)
        trees.write_table(root / described / "metadata.csv", [["file_name", "text"], *([name, "x"] for name in names)])
        with pytest.raises(DataError, match=words):
            load("hub", root)
        gc.collect()

    def test_columns_of_texts_and_of_pictures_may_be_missing(
        self, of_rows: Callable[..., Path], load: Callable[..., MultimodalData]
    ) -> None:
        path = of_rows(label=["jay"] * 5, caption=["x"] * 5)
        data = load("hub", path, hub=self.ONE_SPLIT)
        assert data.train.texts == [""] * 4
        assert any("no column 'text' of texts, only " in note for note in data.notes)
        texts = load("hub", path, hub=self.ONE_SPLIT, columns=Columns(image="", text="caption"))
        assert texts.train.texts == ["x"] * 4
        assert texts.train.images[0].shape == (8, 8, 3)

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"text": ["x"], "label": [["jay", "wren"]]}, "row 0: column 'label' holds a list of 2 values"),
            ({"text": ["x"], "label": [[]]}, "row 0: no class is given in column 'label'"),
            ({"text": [{"en": "x"}], "label": ["jay"]}, "row 0: column 'text' holds an object"),
            ({"text": ["x"], "label": ["jay"], "label.1": ["wren"]}, "more than one column 'label'"),
        ],
    )
    def test_values_that_are_no_texts_are_said(
        self,
        columns: dict[str, list[object]],
        words: str,
        of_rows: Callable[..., Path],
        load: Callable[..., MultimodalData],
    ) -> None:
        with pytest.raises(DataError, match=words):
            load("hub", of_rows(**columns), hub=self.ONE_SPLIT)

    def test_numbers_are_classes_as_people_write_them(
        self, of_rows: Callable[..., Path], load: Callable[..., MultimodalData]
    ) -> None:
        data = load("hub", of_rows(text=["x", "y"], label=[0.0, 1.0]), hub=self.ONE_SPLIT)
        assert data.class_names == ["0", "1"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, "no column 'image'; it has photo, caption, species. Set data.columns.image"),
            ({"columns": Columns(image="caption", text="caption", label="species")}, "'caption' .* holds no pictures"),
            ({"columns": COLUMNS, "hub": HubConfig(test_split="dev")}, "no split 'dev'; it has .*data.hub.test_split"),
            ({"columns": COLUMNS, "hub": HubConfig(subset="fr")}, "cannot load"),
        ],
    )
    def test_what_does_not_fit_is_said(
        self, changes: dict[str, object], words: str, parquet: Path, load: Callable[..., MultimodalData]
    ) -> None:
        with pytest.raises(DataError, match=words):
            load("hub", parquet, **changes)

    def test_what_is_not_there_is_said(self, parquet: Path, load: Callable[..., MultimodalData]) -> None:
        with pytest.raises(DataError, match=r"cannot load .*nowhere.*download it first"):
            load("hub", parquet.parent / "nowhere")
        with pytest.raises(DataError, match=r"data\.path is not set"):
            load("hub", "")

    def test_the_package_that_it_needs_is_named(
        self, load: Callable[..., MultimodalData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(DataError, match=r"pip install datasets .*pip install -e '\.\[hub\]'"):
            load("hub", "user/birds")


def test_settings_that_do_not_go_with_the_data_are_named(load: Callable[..., MultimodalData], tmp_path: Path) -> None:
    table = trees.folder_set(tmp_path, classes=2)
    with pytest.raises(DataError, match=r"has 2 classes, so num_classes cannot be 5 \(0 takes all\)"):
        load("folder", table, num_classes=5)
    with pytest.raises(DataError, match=r"20 px are no multiple of 8 px"):
        load("folder", table, image_size=20)
    with pytest.raises(DataError, match="num_classes cannot be 60"):
        load_data(DataConfig(num_classes=60), patch_px=16)


def test_every_name_has_a_loader() -> None:
    assert set(LISTINGS) | {"emoji"} == set(get_args(DataName))
