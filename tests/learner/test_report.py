"""The report page of real runs: what is on it, and that anybody can read it. What only a browser can judge is judged in
Chromium where there is one."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import html5lib
import httpx
import pytest

from client import MemoryClient
from learner.data.settings import DataConfig
from learner.memory.contents import load_held
from learner.memory.settings import MemoryConfig
from learner.model.attention_masks import MaskConfig
from learner.model.settings import BackboneConfig
from learner.report.charts import accuracy_chart
from learner.report.page import SeedRun, data_name, write_report
from learner.report.upload import report_of
from learner.run import machine
from learner.run.config import LearnerConfig
from learner.run.methods import DEFAULT, parse_method
from learner.run.problem import Problem
from learner.run.run import Run
from learner.run.seeds import summarise_seeds
from learner.training.settings import TrainConfig
from memory_format import FormatError
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, Words, make_problem

ROOT = Path(__file__).parents[2]
NAMES = [f"class <{number}>" for number in range(5)] + ["a class with a name of many words, as people write them"]
CONFIG = LearnerConfig(
    data=DataConfig(
        name="folder",
        path="birds/labels.csv",
        num_classes=6,
        image_size=3 * PATCH_PX,
        base_classes=2,
        classes_per_phase=2,
    ),
    backbone=BackboneConfig(kind="small", patch_px=PATCH_PX, hidden_size=64, num_layers=2),
    train=TrainConfig(base_epochs=1, ssf_epochs=1, batch_size=8, bf16="off"),
    mask=MaskConfig(text=False),
    memory=MemoryConfig(budget_bytes=6_000),
)
ORDERS = {0: [[4, 0], [2, 5], [1, 3]], 1: [[5, 1], [0, 3], [4, 2]]}


@dataclass
class Reported:
    """Runs and their pages."""

    runs: dict[int, SeedRun]
    buffers: dict[int, str]
    pages: dict[str, Path]

    def text(self, name: str) -> str:
        return self.pages[name].read_text()

    def tree(self, name: str) -> ElementTree.Element:
        """The page as a browser reads it; what is wrong by HTML's own rules is an error."""
        parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
        root: ElementTree.Element = parser.parse(self.text(name))
        return root


@pytest.fixture(scope="module")
def reported(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Two seeds of the three methods, a page of both and one of the first alone."""
    root = tmp_path_factory.mktemp("reports")
    runs, buffers = {}, {}
    with MemoryClient(service.url) as client:
        for seed, phases in ORDERS.items():
            problem = make_problem(phases=phases, per_class=8)
            problem = Problem(problem.train, problem.tests, phases, NAMES)
            run = Run(replace(CONFIG, seed=seed), problem, client, root / f"seed-{seed}")
            results = {method: run.run(parse_method(method)) for method in DEFAULT}
            names = {method: run.setup.buffer_name(parse_method(method)) for method in ("full", "masked")}
            runs[seed] = SeedRun(results, problem.named_phases, run.setup.out, names)
            buffers[seed] = run.setup.buffer_name(parse_method("masked"))
        machine.remember(root, client.info(), 2)
        machine.remember(root / "seed-0", client.info(), 2)
    one = write_report(root / "seed-0", CONFIG, {0: runs[0]}, NAMES, vocabulary=Words())
    several = write_report(root, CONFIG, runs, NAMES, vocabulary=Words())
    return Reported(runs, buffers, {"one": one, "several": several})


def _table(tree: ElementTree.Element, caption: str) -> list[list[str]]:
    """The cells of the table whose caption begins so."""
    for table in tree.iter("table"):
        if "".join(table.find("caption").itertext()).startswith(caption):  # type: ignore[union-attr]
            return [["".join(cell.itertext()) for cell in row if cell.tag in ("th", "td")] for row in table.iter("tr")]
    raise AssertionError(f"no table {caption!r}")


def _download(tree: ElementTree.Element, ending: str) -> str:
    [link] = [a for a in tree.iter("a") if (a.get("download") or "").endswith(ending)]
    return base64.b64decode(link.get("href", "").partition(",")[2]).decode()


@pytest.mark.parametrize("name", ["one", "several"])
def test_the_page_is_valid_complete_in_itself_and_can_be_read_aloud(reported: Reported, name: str) -> None:
    text, tree = reported.text(name), reported.tree(name)
    # Names of namespaces are no addresses that a browser asks.
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "<script" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert {a.get("href", "")[1:] for a in tree.iter("a") if a.get("href", "").startswith("#")} <= set(ids)
    pictures = list(tree.iter("img"))
    assert len(pictures) == 3 * 6
    alternatives = [picture.get("alt") or "" for picture in pictures]
    assert all(alternatives)
    assert len(set(alternatives)) == len(alternatives)
    drawings = [element for element in tree.iter() if element.tag.endswith("svg")]
    assert len(drawings) == 3
    assert all(drawing.get("role") == "img" and len(drawing.get("aria-label") or "") > 30 for drawing in drawings)
    assert len(list(tree.iter("h1"))) == 1
    # What is wider than a telephone scrolls in a box of its own, which the keyboard reaches and a name tells of.
    parents = {child: parent for parent in tree.iter() for child in parent}
    for table in tree.iter("table"):
        box = parents[table]
        assert (box.get("class"), box.get("tabindex"), box.get("role")) == ("scroll", "0", "region")
        assert box.get("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_differ_enough_to_be_read(reported: Reported, scheme: str) -> None:
    """WCAG 2.2, level AA: 4.5 to 1 for text, 3 to 1 for lines and dots."""
    light, _, dark = reported.text("one").partition("prefers-color-scheme: dark")
    colours = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", dark.partition("* {")[0]))
    methods = [colour for name, colour in colours.items() if name.startswith("--method-")]
    assert len(methods) == 3
    for ground in ("--paper", "--raised"):
        for text in ("--ink", "--quiet", "--link"):
            assert _contrast(_rgb(colours[text]), _rgb(colours[ground])) >= 4.5, (text, ground)
    for method in methods:
        paper = _rgb(colours["--paper"])
        assert _contrast(_rgb(method), paper) >= 3
        # The deepest tint of a matrix: 40 % of the method's colour.
        tint = tuple(0.4 * a + 0.6 * b for a, b in zip(_rgb(method), paper, strict=True))
        assert _contrast(_rgb(colours["--ink"]), tint) >= 4.5


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def _contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    low, high = sorted(
        sum(
            share * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
            for share, value in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
        )
        for colour in (one, other)
    )
    return (high + 0.05) / (low + 0.05)


def test_the_page_says_what_the_run_found(reported: Reported) -> None:
    tree, masked = reported.tree("one"), reported.runs[0].results["masked"]
    [heading] = tree.iter("h1")
    assert (heading.text or "").startswith("birds:")
    assert "run seed-0" in (tree.findtext(".//title") or "")
    found = _table(tree, "Accuracy in percent (one seed)")
    assert [row[0] for row in found[1:]] == ["no replay", "full images", "masked exemplars"]
    assert found[3][1] == f"{100 * masked[-1].accuracy:.1f}"
    assert found[3][4] == str(masked[-1].exemplars)
    matrix = _table(tree, "masked exemplars, accuracy")
    assert [row[1:] for row in matrix[1:]] == [
        [f"{100 * value:.1f}" for value in line.by_phase] + [""] * (2 - line.phase) for line in masked
    ]
    modalities = _table(tree, "Last accuracy in percent, by what is shown")
    assert modalities[0] == ["method", "both", "picture", "text"]
    assert modalities[3][2] == f"{100 * masked[-1].by_modality['picture']:.1f}"
    settings = {row[0]: row[1] for row in _table(tree, "Settings")}
    assert settings["memory.codec"] == "id em_webp, quality 30"
    assert settings["mask.text"] == "false"
    machine_said = {row[0]: row[1] for row in _table(tree, "Versions and machine")}
    assert re.fullmatch(r"3\.\d+\.\d+.*", machine_said["Python"])
    assert set(machine_said) >= {"processor", "cores", "memory", "device", "torch", "memory service"}
    drawings = [element.get("aria-label") or "" for element in tree.iter() if element.tag.endswith("svg")]
    assert "chance 50.0, 25.0, 16.7" in drawings[0]


def test_names_of_many_parts_lie_within_the_chart(reported: Reported) -> None:
    """Side by side, one below the other, or over lines; no line begins before the drawing does."""
    lines = reported.runs[0].results["masked"]
    for names in (
        ["full", "masked"],
        ["full+avif+q15+px8", "masked+avif+q15+px8"],
        ["masked+avif+q15+px8+keep40+any-order"],
    ):
        svg = accuracy_chart({0: dict.fromkeys(names, lines)}).svg
        said = re.findall(r'text-anchor: start[^"]*" x="(-?[\d.]+)"[^>]*>([^<]*)</text>', svg)
        assert "chance" in [text for _, text in said]
        assert all(float(across) > 0 for across, _ in said), said


def test_classes_and_pictures_are_those_of_the_memory_at_the_end(reported: Reported, service: Service) -> None:
    run = reported.runs[0]
    held = load_held(run.folder / "masked")
    assert held is not None
    with MemoryClient(service.url) as client:
        records = {record.exemplar_id: record for record in client.buffer(reported.buffers[0]).records()}
    assert held.ids == set(records)
    rows = {row[0]: row[1:] for row in _table(reported.tree("one"), "Each class")[1:]}
    assert list(rows) == [name for names in run.classes for name in names]
    for class_id, name in enumerate(NAMES):
        phase, *accuracies, full, masked = rows[name]
        assert int(phase) == 1 + next(p for p, classes in enumerate(ORDERS[0]) if class_id in classes)
        assert accuracies == [f"{100 * run.results[method][-1].by_class[name]:.0f}" for method in DEFAULT]
        assert int(full) > 0
        assert int(masked) == sum(record.class_id == class_id for record in records.values())
    figures = [figure for figure in reported.tree("one").iter("figure") if figure.find(".//img") is not None]
    assert [figure.findtext(".//h3") for figure in figures] == list(rows)
    charges = {record.charge for record in records.values()}
    for figure in figures:
        said = re.search(r"(\d+) of 9 patches, \d+% of the attention, ([\d,]+) bytes", "".join(figure.itertext()))
        assert said is not None
        assert int(said[2].replace(",", "")) in charges
        assert any(word.text for word in figure.iter("b"))


def test_several_seeds_have_their_spread_and_their_values(reported: Reported) -> None:
    tree = reported.tree("several")
    last = {method: [run.results[method][-1].accuracy for run in reported.runs.values()] for method in DEFAULT}
    found = _table(tree, "Accuracy in percent (mean")
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", found[3][1])
    assert float(found[3][1].split()[0]) == pytest.approx(50 * sum(last["masked"]), abs=0.051)
    gaps = _table(tree, "Points over full images")
    assert gaps[0][3:] == ["last, seed 0", "last, seed 1"]
    assert [float(cell) for cell in gaps[2][3:]] == pytest.approx(
        [100 * (a - b) for a, b in zip(last["masked"], last["full"], strict=True)], abs=0.051
    )
    assert re.fullmatch(r"[+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)", gaps[2][1])
    # In which phase a class came differs between seeds.
    assert {row[0]: row[1] for row in _table(tree, "Each class")[1:]}["class <0>"] == "1, 2"


def test_all_figures_can_be_taken_along(reported: Reported) -> None:
    tree = reported.tree("several")
    rows = list(csv.DictReader(io.StringIO(_download(tree, ".csv"))))
    assert len(rows) == 2 * 3 * 3
    [row] = [r for r in rows if (r["seed"], r["method"], r["phase"]) == ("1", "masked", "3")]
    line = reported.runs[1].results["masked"][-1]
    assert float(row["accuracy"]) == line.accuracy
    assert float(row["accuracy_phase_2"]) == line.by_phase[1]
    assert float(row["modality_text"]) == line.by_modality["text"]
    assert int(row["bytes_used"]) == line.bytes_used
    document = json.loads(_download(tree, ".json"))
    assert document["runs"]["1"]["masked"][-1]["by_class"] == line.by_class
    assert document["classes"]["0"][0] == ["class <4>", "class <0>"]
    assert document["config"]["memory"]["budget_bytes"] == 6_000
    assert document["machine"]["cores"]


@pytest.mark.parametrize(
    ("path", "name"), [("a/birds/labels.csv", "birds"), ("a/birds", "birds"), ("birds.csv", "birds")]
)
def test_pictures_of_ones_own_go_by_their_folder(path: str, name: str) -> None:
    assert data_name(replace(CONFIG, data=replace(CONFIG.data, path=path))) == name


def _check_pages(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "check_pages.py", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip(f"pages are not looked at: {done.stderr.strip()}")
    return done


def test_axe_core_finds_nothing_serious_in_chromium(reported: Reported, tmp_path: Path) -> None:
    done = _check_pages(*reported.pages.values(), "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 of them serious") == 8
    assert len(list(tmp_path.glob("*.png"))) == 4

    # And it would find something.
    bad = tmp_path / "bad.html"
    bad.write_text(
        re.sub(r' alt="[^"]+"', "", reported.text("one")).replace("--quiet: #", "--quiet: #e0e0e0; --was: #")
    )
    done = _check_pages(bad)
    assert done.returncode == 1
    assert "alternative text" in done.stdout
    assert "contrast" in done.stdout


def test_a_report_that_is_too_large_is_said_in_words(reported: Reported) -> None:
    run = reported.runs[0]
    with pytest.raises(FormatError, match=r"^its report will not do, phases: .*at most 1000 items"):
        report_of(reported.pages["one"].parent, CONFIG, {0: replace(run, classes=[*run.classes] * 400)}, NAMES)


def test_the_service_keeps_what_the_page_says(reported: Reported, service: Service) -> None:
    several = reported.pages["several"].parent
    with MemoryClient(service.url) as client:
        report = report_of(several, CONFIG, reported.runs, NAMES)
        info = client.put_run("both", report)
        assert client.put_run("both", report) == info
        client.put_run("one", report_of(several / "seed-0", CONFIG, {0: reported.runs[0]}, NAMES))
        before = [run for run in client.runs() if run.run_id not in ("one", "both")]  # of tests that share the service
        assert [run.run_id for run in client.runs()] == ["one", "both", *(run.run_id for run in before)]
        page = httpx.get(f"{service.url}/runs/both.json").raise_for_status().json()
        client.delete_run("one")
        assert client.runs() == [info, *before]
        client.delete_run("both")
    kept = page["run"]["report"]
    figures = {method["method"]: method for method in kept["methods"]}
    for method, found in summarise_seeds({seed: run.results for seed, run in reported.runs.items()}).items():
        assert figures[method]["last"] == {"mean": found.last.mean, "deviation": found.last.deviation}
        assert figures[method]["bytes_used"]["mean"] == found.bytes_used.mean
        assert len(figures[method]["phases"]) == len(ORDERS[0])
    assert figures["masked"]["buffers"] == list(reported.buffers.values())
    assert figures["none"]["buffers"] == []
    assert kept["verdict"] in unescape(reported.text("several"))
    assert kept["machine"] == machine.recall(several)
    # The exemplars that the page shows, as the service has them.
    assert [card["class_name"] for card in page["shown"]] == [
        "".join(figure.find("figcaption").find("h3").itertext())  # type: ignore[union-attr]
        for figure in reported.tree("several").iter("figure")
        if figure.find("div") is not None
    ]
