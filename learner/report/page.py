"""The page: figures, charts and pictures put into its template."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from client.files import DamagedFileError, write_atomically
from learner.memory.contents import Held, load_held
from learner.model.backbones.weights import wordpiece_tokenizer
from learner.report import charts, tables
from learner.report.pictures import Exhibit, Vocabulary, exhibits
from learner.run import machine
from learner.run.config import LearnerConfig
from learner.run.methods import parse_method
from learner.run.seeds import SeedResults, seeds_verdict, seeds_words
from learner.run.summary import Results, budget_words, codec_words, label, verdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Colour:
    """One colour as the page has it: ``#rrggbb`` on a light and on a dark ground, at least 3 to 1 against either."""

    light: str
    dark: str


OF_METHODS: Mapping[str, Colour] = {
    "none": Colour("#6b7280", "#9aa3ad"),
    "full": Colour("#b4531f", "#f0935b"),
    "masked": Colour("#1f5fd1", "#6aa5ff"),
}
"""Of the demo's methods; others take :data:`OTHERS` in turn."""
OTHERS: tuple[Colour, ...] = (
    Colour("#1a7f47", "#4cc57f"),
    Colour("#7a3fd1", "#b995ff"),
    Colour("#8a6100", "#d9a62e"),
    Colour("#b02a5b", "#f07ba3"),
    Colour("#08797d", "#3fc1c5"),
    Colour("#7a5c3e", "#c9a37e"),
)


@dataclass(frozen=True)
class SeedRun:
    """The finished run of one seed.

    Attributes:
        classes: names of each phase's.
        folder: with what the run left there of each method.
        buffers: by method, what its memory is called.
    """

    results: Results
    classes: Sequence[Sequence[str]]
    folder: Path
    buffers: Mapping[str, str] = field(default_factory=dict)


def write_report(
    out: Path,
    config: LearnerConfig,
    runs: Mapping[int, SeedRun],
    class_names: Sequence[str],
    *,
    directory: Path | None = None,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write ``out/report.html``, all in one file.

    Args:
        config: of the first run.
        runs: by seed; all of the same methods and as many phases.
        class_names: by class id.
        directory: where the tokenizer's package is kept.
        vocabulary: turns token ids into words; default MiniLM's.

    Raises:
        OSError: it cannot be written.
    """
    results: SeedResults = {seed: run.results for seed, run in runs.items()}
    classes = {seed: run.classes for seed, run in runs.items()}
    first = next(iter(runs.values()))
    methods = list(first.results)
    made_with = machine.recall(out)
    environment = Environment(
        loader=PackageLoader("learner.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        name=out.resolve().name,
        title=data_name(config),
        verdict=seeds_verdict(results) if len(runs) > 1 else verdict(first.results),
        setting=setting_words(config, len(class_names), results),
        colours=list(colours(methods).values()),
        tables=[table for table in (tables.results(results), tables.gaps(results), tables.seeds(results)) if table],
        charts=[
            chart
            for chart in (
                charts.accuracy_chart(results),
                charts.bytes_chart(results),
                charts.exemplars_chart(results),
            )
            if chart
        ],
        several=len(runs) > 1,
        seeds=seeds_words(results),
        matrices=tables.matrices(results),
        modalities=tables.modalities(results),
        classes=tables.classes(results, classes, _held(runs, methods), class_names),
        exhibits=_exhibits(first, class_names, vocabulary or wordpiece_tokenizer(directory)),
        whole_texts=not config.mask.text,
        settings=settings_words(config.to_dict()),
        changed=settings_words(config.to_dict()).items() - settings_words(LearnerConfig().to_dict()).items(),
        machine=made_with,
        csv=tables.download(tables.as_csv(results), "text/csv"),
        json=tables.download(tables.as_json(config, results, classes, made_with), "application/json"),
    )
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def colours(methods: Iterable[str]) -> dict[str, Colour]:
    """The colour of each method, by its name."""
    others = cycle(OTHERS)
    return {method: OF_METHODS.get(method) or next(others) for method in methods}


def data_name(config: LearnerConfig) -> str:
    """What people call the data set: of files of their own, the folder's name."""
    if config.data.name != "folder":
        return config.data.title
    path = PurePath(config.data.path)
    return (path.parent.name if path.suffix else path.name) or path.stem or config.data.path


def setting_words(config: LearnerConfig, num_classes: int, results: SeedResults) -> str:
    """What was compared, in words."""
    data, memory = config.data, config.memory
    methods = list(next(iter(results.values())))
    orders = dict.fromkeys(parse_method(method).configure(config).memory.selection for method in methods)
    tested = ", on unseen renditions and unseen emoji together" if data.name == "emoji" else ""
    return (
        f"{num_classes} classes of {data_name(config)} at {data.image_size} px, {data.base_classes} in the first "
        f"phase and {data.classes_per_phase} in each later one. Every method has {budget_words(memory)} "
        f"({codec_words(config, methods)}) and the same trainer; selection by {' or '.join(orders)}. Accuracy is over "
        f"all classes seen{tested}; chance is {100 / num_classes:.1f} % at the end. "
        f"{seeds_words(results).capitalize()}."
    )


def _held(runs: Mapping[int, SeedRun], methods: Sequence[str]) -> dict[str, list[Held]]:
    """What the memories hold at the end, by method; without those of which some seed does not say."""
    contents: dict[str, list[Held]] = {}
    for method in methods:
        found = [held_in(run.folder, method) for run in runs.values()]
        known = [held for held in found if held is not None]
        if len(known) == len(runs):
            contents[method] = known
    return contents


def held_in(folder: Path, method: str) -> Held | None:
    """What a method's memory holds at the end, of a run's folder; None where that is not known."""
    try:
        return load_held(folder / parse_method(method).slug)
    except DamagedFileError as error:
        log.warning("%s: what the memory holds is not in the report", error)
        return None


def _exhibits(run: SeedRun, class_names: Sequence[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Of the first method that stores masked exemplars."""
    masked = [method for method in run.results if parse_method(method).stores == "masked"]
    shown: list[Exhibit] = []
    for method in masked[:1]:
        folder = run.folder / parse_method(method).slug
        shown = exhibits(folder, held_in(run.folder, method), class_names, vocabulary)
    worded = any(exhibit.words for exhibit in shown)
    return {"method": label(masked[0]) if masked else "", "shown": shown, "worded": worded}


def settings_words(config: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """All settings in words, by their names."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        # A codec is one setting, whatever it has of options.
        if isinstance(value, Mapping) and "id" not in value:
            flat |= settings_words(value, f"{within}{name}.")
        elif isinstance(value, Mapping):
            flat[f"{within}{name}"] = ", ".join(f"{key} {option}" for key, option in value.items())
        elif isinstance(value, list | tuple):
            flat[f"{within}{name}"] = ", ".join(map(str, value))
        else:
            flat[f"{within}{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return flat
