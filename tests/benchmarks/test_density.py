"""The density benchmark: figures that are what they say, pictures at ViLT's geometry, and a run from end to end."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from benchmarks.common.document import document
from benchmarks.decisions import codec_accuracy
from benchmarks.density.decode import decode_speed
from benchmarks.density.masks import at_random, masked
from benchmarks.density.measure import MOST_PSNR_DB, Result, Setting, exemplar, full_bytes, measure, psnr, ssim
from benchmarks.density.pictures import Picture, PicturesMissingError, Sample, fitted, folder, photographs
from benchmarks.density.plan import KEEP_RATIOS, Plan, settings
from benchmarks.density.report import markdown
from benchmarks.density.run import Run, headline, row, summary
from benchmarks.density.stamps import PACKAGE, Stamp, StampsMissingError, load_stamps
from memory_format import AVIF, MissingLibraryError, WebP, make_record

ROOT = Path(__file__).parents[2]
SUMMARY = [
    "photos_exemplars_per_jpeg95",
    "photos_kept_psnr_db",
    "photos_exemplars_per_same_codec",
    "emoji_exemplars_per_same_codec",
    "decode_records_per_s_demo",
    "decode_records_per_s_vilt",
]


def _texture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 216, (side // 8, side // 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(smooth + rng.normal(scale=3, size=smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def sample() -> Sample:
    keep = {ratio: np.random.default_rng(1).permutation(64).reshape(8, 8) < round(ratio * 64) for ratio in KEEP_RATIOS}
    return Sample(Picture("texture", _texture(128), "a texture", 16), keep, np.arange(101, 108))


def test_scores_count_every_byte_and_both_full_samples(sample: Sample) -> None:
    webp = Setting("WebP", "quality 50", {"id": "em_webp", "quality": 50})
    zstd = Setting("raw", "", {"id": "em_zstd"})
    ticks: list[None] = []
    results = measure([sample, sample], [webp, zstd], lambda: ticks.append(None))
    assert len(ticks) == 2
    assert [(result.setting, result.keep_ratio) for result in results] == [
        (setting, ratio) for setting in (webp, zstd) for ratio in KEEP_RATIOS
    ]
    first = results[0]
    keep = sample.keep_masks[first.keep_ratio]
    record = exemplar(sample, keep, webp.codec)
    picture = sample.picture.image
    patches = picture.reshape(8, 16, 8, 16, 3).swapaxes(1, 2)
    full = make_record(
        class_id=0,
        patches=patches.reshape(64, 16, 16, 3),
        keep_mask=np.ones((8, 8), dtype=bool),
        codec=WebP(quality=50),
        token_ids=sample.token_ids,
    )
    score = first.scores[0]
    assert record.num_kept == keep.sum() == round(first.keep_ratio * 64)
    assert (score.record_bytes, score.payload_bytes) == (record.charge, len(record.payload))
    assert score.full_bytes == full.charge
    assert score.pixel_bytes == keep.sum() * 16 * 16 * 3
    assert score.psnr_db == pytest.approx(psnr(patches[keep], record.patches()))
    assert first.per_same_codec == pytest.approx(full.charge / record.charge)
    # What a file and its caption take, and nothing of ours.
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    assert score.jpeg_bytes == len(file.getvalue()) + len("a texture")
    assert first.per_jpeg == pytest.approx(score.jpeg_bytes / record.charge)
    assert 25 < score.psnr_db < MOST_PSNR_DB
    assert 0.5 < score.ssim < 1
    assert not first.exact
    assert all(result.exact and result.scores[0].ssim == pytest.approx(1) for result in results[2:])


def test_ratios_are_of_sums_as_a_budget_counts(sample: Sample) -> None:
    setting = Setting("raw", "", {"id": "em_zstd"})
    (result,) = [r for r in measure([sample], [setting], lambda: None) if r.keep_ratio == KEEP_RATIOS[0]]
    (score,) = result.scores
    other = replace(score, record_bytes=3 * score.record_bytes, jpeg_bytes=score.jpeg_bytes)
    both = Result(setting, KEEP_RATIOS[0], (score, other))
    assert both.per_jpeg == pytest.approx(2 * score.jpeg_bytes / (4 * score.record_bytes))


def test_full_samples_have_the_quality_that_was_found_for_the_exemplar(sample: Sample) -> None:
    target = {"id": "em_webp", "quality": {"psnr_db": 34}}
    keep = sample.keep_masks[KEEP_RATIOS[0]]
    record = exemplar(sample, keep, target)
    (number,) = {
        n for n in range(101) if exemplar(sample, keep, {"id": "em_webp", "quality": n}).payload == record.payload
    }
    everything = np.ones((8, 8), dtype=bool)
    expected = exemplar(sample, everything, {"id": "em_webp", "quality": number}).charge
    assert full_bytes(sample, record, target) == expected


def test_ssim_is_the_mean_of_the_patches_own(sample: Sample) -> None:
    patches = sample.picture.image.reshape(8, 16, 8, 16, 3).swapaxes(1, 2).reshape(64, 16, 16, 3)[:9]
    noisy = np.clip(patches + np.random.default_rng(0).normal(scale=9, size=patches.shape), 0, 255).astype(np.uint8)
    each = [structural_similarity(a, b, channel_axis=2, data_range=255) for a, b in zip(patches, noisy, strict=True)]
    assert ssim(patches, noisy) == pytest.approx(np.mean(each))


def test_pictures_are_fitted_as_vilt_does() -> None:
    sizes = {(640, 427): (384, 576), (300, 451): (576, 384), (2000, 100): (384, 640), (50, 50): (384, 384)}
    for (width, height), expected in sizes.items():
        assert fitted(Image.new("RGB", (width, height))).shape == (*expected, 3)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for number in range(6):
        Image.fromarray(_texture(64, number)).save(tmp_path / "below" / f"my_picture-{number}.PNG")
    (tmp_path / "below" / "my_picture-0.txt").write_text("A told one.\nmore\n")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    notes: list[str] = []
    pictures = folder(tmp_path, 4, notes.append)
    assert [picture.name for picture in pictures] == [f"below/my_picture-{n}.PNG" for n in (0, 1, 3, 5)]
    assert [picture.caption for picture in pictures[:2]] == ["A told one.", "my picture 1"]
    assert notes == []
    assert len(folder(tmp_path, 64, notes.append)) == 6
    assert len(notes) == 1
    assert "broken.jpg" in notes[0]
    with pytest.raises(PicturesMissingError, match=r"no picture that can be read \(\.avif"):
        folder(tmp_path / "nowhere", 4, notes.append)


def test_without_stamps_the_wheels_photographs_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(number: int, directory: Path | None) -> list[Stamp]:
        raise StampsMissingError("there is no apt-get here")

    monkeypatch.setattr("benchmarks.density.pictures.load_stamps", nothing)
    notes: list[str] = []
    pictures = photographs(5, None, notes.append)
    with_sklearn = importlib.util.find_spec("sklearn") is not None
    assert len(pictures) == (18 if with_sklearn else 16)
    assert notes[-1] == "left out: stamps on photographs: there is no apt-get here"
    assert ["scikit-learn" in note or "sklearn" in note for note in notes[:-1]] == ([] if with_sklearn else [True])
    for picture in pictures:
        height, width, _ = picture.image.shape
        assert min(height, width) == 384
        assert max(height, width) <= 640
        assert picture.grid == (height // 32, width // 32)


def test_without_apt_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("benchmarks.density.stamps.shutil.which", lambda command: None)
    with pytest.raises(StampsMissingError, match="there is no apt-get here: the stamps come as Debian package"):
        load_stamps(3, tmp_path)


def test_stamps_are_the_photographs_among_a_packages_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not here: no package can be made to unpack")
    tree = tmp_path / "tree"
    stamps = tree / "usr/share/tuxpaint/stamps"
    for name, side in (("animals/owl", 240), ("animals/wren", 90), ("animals/cartoon/cat", 240), ("symbols/a", 240)):
        (stamps / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGBA", (side, side // 2), (90, 60, 30, 200)).save(stamps / f"{name}.png")
        (stamps / f"{name}.txt").write_text("An owl.\nde.utf8=Eine Eule.\n")
        (stamps / f"{name}.ogg").write_bytes(b"a sound")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: -\n"
    )

    def download(*command: str, cwd: Path) -> None:
        assert command == ("apt-get", "download", PACKAGE)
        build = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(cwd / "stamps.deb")]
        subprocess.run(build, check=True, capture_output=True)

    monkeypatch.setattr("benchmarks.density.stamps._run", download)
    monkeypatch.setattr("benchmarks.density.stamps.shutil.which", lambda command: command)
    (stamp,) = load_stamps(3, tmp_path / "data")
    assert (stamp.name, stamp.description, stamp.picture.size) == ("animals/owl", "An owl.", (240, 120))
    held = {path.suffix for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert held == {".png", ".txt"}

    monkeypatch.setattr("benchmarks.density.stamps._run", lambda *command, cwd: pytest.fail("fetched again"))
    assert len(load_stamps(3, tmp_path / "data")) == 1


def test_masks_keep_what_the_picture_is_of() -> None:
    picture = np.array(Image.fromarray(skimage.data.gravel()).convert("RGB").resize((384, 384)))
    cat = Image.fromarray(skimage.data.chelsea()[20:276, 100:356])
    picture[128:288, 64:224] = np.asarray(cat.resize((160, 160)))
    (found,) = masked([Picture("cat", picture, "A cat.", 32)], KEEP_RATIOS, None, lambda: None)
    assert found.token_ids[[0, -1]].tolist() == [101, 102]
    for ratio, keep in found.keep_masks.items():
        assert keep.sum() == round(ratio * 144)
        assert keep[4:9, 2:7].mean() > 0.9


def test_random_masks_keep_as_many_patches_elsewhere(sample: Sample) -> None:
    (found,) = at_random([sample], KEEP_RATIOS[0])
    ((ratio, keep),) = found.keep_masks.items()
    assert ratio == KEEP_RATIOS[0]
    assert keep.sum() == sample.keep_masks[ratio].sum()
    assert (keep != sample.keep_masks[ratio]).any()
    # In shapes of several patches: most kept ones have a kept neighbour.
    beside = np.pad(keep, 1)
    near = beside[2:, 1:-1] | beside[:-2, 1:-1] | beside[1:-1, 2:] | beside[1:-1, :-2]
    assert near[keep].mean() > 0.8


def test_codecs_without_their_library_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(cls: type) -> None:
        raise MissingLibraryError("codec em_avif needs a library", codec="em_avif")

    monkeypatch.setattr(AVIF, "require", classmethod(missing))
    notes: list[str] = []
    found = settings(Plan(), notes.append)
    assert {setting.codec["id"] for setting in found} >= {"em_webp", "em_jpeg", "em_zstd"}
    assert "em_avif" not in {setting.codec["id"] for setting in found}
    assert "left out: AVIF: codec em_avif needs a library" in notes


def test_the_headline_is_the_densest_that_is_good_enough(sample: Sample) -> None:
    wanted = [Setting("JPEG", f"quality {q}", {"id": "em_jpeg", "quality": q}) for q in (5, 92, 98)]
    wanted.append(Setting("raw", "", {"id": "em_zstd"}))
    run = Run("", photos=[row(result) for result in measure([sample], wanted, lambda: None)])
    good = [r for r in run.photos if r.keep_ratio == KEEP_RATIOS[0] and r.psnr_db >= 35 and not r.exact]
    best = headline(run.photos)
    assert best is not None
    assert best in good
    assert best.per_jpeg == max(result.per_jpeg for result in good)
    assert len(good) in (1, 2)
    assert summary(run)["photos_exemplars_per_jpeg95"] == round(best.per_jpeg, 2)
    assert headline(run.photos[:2]) is None


def test_decode_speed_counts_whole_batches(sample: Sample) -> None:
    speed = decode_speed([sample], Setting("WebP", "", {"id": "em_webp", "quality": 30}), KEEP_RATIOS[0], rounds=1)
    assert speed.size == "128x128 px"
    assert min(speed.records_per_s, speed.records_per_s_one_thread) > 0


def test_a_run_on_a_folder_from_end_to_end(tmp_path: Path) -> None:
    images, results = tmp_path / "images", tmp_path / "results"
    images.mkdir()
    for number in range(2):
        Image.fromarray(_texture(96, number)).save(images / f"{number}.png")
    command = [
        sys.executable,
        "-m",
        "benchmarks.density",
        "--quick",
        "--images",
        str(images),
        "--results",
        str(results),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found) == SUMMARY
    assert found["photos_kept_psnr_db"] >= 35
    assert 1 < found["photos_exemplars_per_same_codec"] < found["photos_exemplars_per_jpeg95"]
    assert [found[name] for name in SUMMARY[3:]] == [None] * 3

    assert {path.name for path in (results / "density").iterdir()} == {"latest.json", "latest.md", "latest.png"}
    path = results / "density" / "latest.json"
    told = json.loads(path.read_text())
    assert told["summary"] == found
    assert told["argv"] == ["--quick", "--images", "PATH", "--results", "PATH"]
    photos = told["found"]["photos"]
    assert {row["keep_ratio"] for row in photos} == set(KEEP_RATIOS)
    assert all(row["pictures"] == 2 and row["record_bytes"] > row["payload_bytes"] for row in photos)
    assert str(images) not in path.read_text() + path.with_suffix(".md").read_text()
    assert "## What is promised" in path.with_suffix(".md").read_text()


def test_no_pictures_is_an_error_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.density", "--quick", "--images", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "holds no picture that can be read" in done.stderr
    assert done.stdout == ""


def test_report_and_document_say_the_same(sample: Sample) -> None:
    wanted = [Setting("WebP", "quality 80", {"id": "em_webp", "quality": 80})]
    rows = [row(result) for result in measure([sample], wanted, lambda: None)]
    run = Run("one texture", photos=rows, emoji=rows)
    told = document("density", run, summary(run), options=Namespace(), arguments=[], packages=[], seconds=1.0)
    assert (headline(rows) is None) == (told.summary["photos_exemplars_per_jpeg95"] is None)
    assert told.found["photos"][0]["record_bytes"] == pytest.approx(rows[0].record_bytes, rel=1e-5)
    assert f"{rows[0].record_bytes:,.0f}" in markdown(told)


def test_accuracies_are_averaged_over_seeds() -> None:
    outcomes = [
        codec_accuracy.Outcome("webp-q30", "masked", seed, last, average, 100 + seed, 480.0)
        for seed, last, average in ((0, 0.2, 0.3), (1, 0.3, 0.4))
    ]
    head, ((name, method, each, exemplars, average, averages, last, lasts),) = codec_accuracy._rows(outcomes)
    assert len(head) == 8
    assert (name, method, each, exemplars) == ("webp-q30", "masked", "480", "100")
    assert (average, averages, last, lasts) == ("0.350", "0.300 0.400", "0.250", "0.200 0.300")


def test_an_unknown_candidate_is_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        codec_accuracy.main(["--only", "webp-q31"])
    assert "unknown: webp-q31; known: webp-q5" in capsys.readouterr().err
