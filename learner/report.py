"""``report.html``: one self-contained page with the curves, the budget's use and pictures of masked exemplars."""

from __future__ import annotations

import base64
import html
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from learner.backbones.weights import wordpiece_tokenizer
from learner.config import LearnerConfig
from learner.examples import Example, load_examples
from learner.files import DamagedFileError, write_atomically
from learner.methods import parse_method
from learner.seeds import SeedResults, seeds_verdict, seeds_words, summarise_seeds
from learner.spread import points
from learner.summary import Results, budget_words, label, summarise, verdict

log = logging.getLogger(__name__)

COLOURS: dict[str, str] = {"none": "#8a8f98", "full": "#c4622d", "masked": "#1f6feb"}
OTHER_COLOURS = ("#2e9e5b", "#8250df", "#bf8700", "#cf3a6b", "#0a9396", "#7a5c3e")
"""Of the demo's methods, and what others take in turn."""
SHOWN_PX = 256
"""The longer side of the pictures in the report: a page of hundreds must stay one that a browser opens."""


def colour(method: str, results: Results) -> str:
    """The colour of a method's lines."""
    others = [name for name in results if name not in COLOURS]
    return COLOURS[method] if method in COLOURS else OTHER_COLOURS[others.index(method) % len(OTHER_COLOURS)]


class Vocabulary(Protocol):
    def id_to_token(self, id: int) -> str | None: ...


def write_report(
    out: Path,
    config: LearnerConfig,
    results: Results,
    class_names: Sequence[str],
    *,
    classes: Sequence[Sequence[str]],
    directory: Path | None = None,
    vocabulary: Vocabulary | None = None,
    seeds: SeedResults | None = None,
    examples: Path | None = None,
) -> Path:
    """Write ``out/report.html``.

    Args:
        out: where to.
        results: of the run, or the means of several.
        class_names: by class id.
        classes: names of each phase's.
        directory: where the tokenizer's package is kept.
        vocabulary: turns token ids into words; default MiniLM's.
        seeds: the runs that ``results`` are the means of.
        examples: the run's folder, with the examples that masking left there, where it is another one than ``out``.
    """
    words = vocabulary or wordpiece_tokenizer(directory)
    masked = [parse_method(method).slug for method in results if parse_method(method).stores == "masked"]
    shown = [
        example
        for folder in masked[:1]
        for path in sorted(
            ((examples or out) / folder).glob("examples-*.npz"), key=lambda path: int(path.stem.split("-")[1])
        )
        for example in _examples(path)
    ]
    page = _PAGE.substitute(
        verdict=html.escape(seeds_verdict(seeds) if seeds else verdict(results)),
        data=html.escape(_setting(config, len(class_names), seeds)),
        table=_seeds_table(seeds) if seeds else _table(results),
        classes="\n".join(f"<li>{html.escape(', '.join(names))}</li>" for names in classes),
        accuracy=_accuracy_chart(results),
        memory=_memory_chart(results),
        examples="\n".join(_example(example, class_names, words) for example in shown)
        or "<p>No masked exemplars in this run.</p>",
        note=html.escape(_text_note(config)),
    )
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def _examples(path: Path) -> list[Example]:
    try:
        return load_examples(path)
    except DamagedFileError as error:
        # Hours of training are not to end without their report for some pictures.
        log.warning("%s: its pictures are not in the report", error)
        return []


def _setting(config: LearnerConfig, num_classes: int, seeds: SeedResults | None) -> str:
    data, memory = config.data, config.memory
    codec = ", ".join(f"{name} {value}" for name, value in memory.codec.items())
    tested = ", on unseen renditions and unseen emoji together" if data.name == "emoji" else ""
    runs = "One seed."
    if seeds:
        runs = (
            f"Means over {seeds_words(seeds)}; ± is their standard deviation. The classes below are those of the first."
        )
    return (
        f"{num_classes} classes of {data.title} at {data.image_size} px, {data.base_classes} in the first "
        f"phase and {data.classes_per_phase} in each later one. Every method has {budget_words(memory)} "
        f"({codec}) and the same trainer; selection by {memory.selection}. Accuracy is over all classes seen"
        f"{tested}. {runs}"
    )


def _text_note(config: LearnerConfig) -> str:
    if config.mask.text:
        return "Words in bold are stored, the others dropped."
    return (
        "This run stores whole captions (mask.text is off): the words in bold are those that the dropped patches "
        "attend to, which the text mask would keep."
    )


def _table(results: Results) -> str:
    rows = []
    for method, lines in results.items():
        figures = summarise(lines)
        memory = (
            (f"{figures.exemplars}", f"{figures.bytes_used:,}", f"{figures.bytes_per_exemplar:,.0f}")
            if figures.exemplars
            else ("-", "-", "-")
        )
        cells = (f"{figures.last:.3f}", f"{figures.average:.3f}", f"{figures.forgetting:.3f}", *memory)
        rows.append(f"<tr><th>{label(method)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join(rows)


def _seeds_table(seeds: SeedResults) -> str:
    rows = []
    for method, found in summarise_seeds(seeds).items():
        held = found.exemplars.mean
        cells = [f"{points(figure)} %" for figure in (found.last, found.average, found.forgetting)]
        cells += [
            f"{figure.mean:,.0f}" if held else "-"
            for figure in (found.exemplars, found.bytes_used, found.bytes_per_exemplar)
        ]
        rows.append(f"<tr><th>{label(method)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join(rows)


def _accuracy_chart(results: Results) -> str:
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for method, lines in results.items():
        seen = [line.classes_seen for line in lines]
        axes.plot(
            seen, [100 * line.accuracy for line in lines], "o-", color=colour(method, results), label=label(method)
        )
        old = [(line.classes_seen, 100 * line.accuracy_old) for line in lines if line.accuracy_old is not None]
        axes.plot(*zip(*old, strict=True), ":", color=colour(method, results)) if old else None
    axes.set_xlabel("classes seen")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("accuracy, %  (dotted: old classes)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    _legend(figure, len(results))
    return _svg(figure)


def _memory_chart(results: Results) -> str:
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method, lines in results.items():
        if not lines[-1].exemplars:
            continue
        phases = [line.phase + 1 for line in lines]
        left.plot(phases, [line.bytes_used / 1000 for line in lines], "o-", color=colour(method, results))
        right.plot(phases, [line.exemplars for line in lines], "o-", color=colour(method, results), label=label(method))
    budgets = max(([line.budget_bytes for line in lines] for lines in results.values()), key=max)
    left.step(range(1, len(budgets) + 1), [b / 1000 for b in budgets], "k--", where="mid", linewidth=1)
    left.set_ylabel("kB used  (dashed: budget)")
    left.set_ylim(0, max(max(budgets), 1) / 1000 * 1.1)  # no budget at all where nothing is stored
    right.set_ylabel("exemplars held")
    right.set_ylim(0)
    for axes in (left, right):
        axes.set_xlabel("phase")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if right.lines:
        _legend(figure, len(right.lines))
    return _svg(figure)


def _legend(figure: Figure, lines: int) -> None:
    """Below the axes, which names of many parts would cover; two side by side, and the figure as much taller."""
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-lines // 2))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    drawing = buffer.getvalue()
    return drawing[drawing.index("<svg") :]


def _example(example: Example, class_names: Sequence[str], words: Vocabulary) -> str:
    kept = int(example.keep_mask.sum())
    held = float(example.attention[example.keep_mask].sum() / max(float(example.attention.sum()), 1e-12))
    caption = (
        f"{class_names[example.class_id]}: {kept} of {example.keep_mask.size} patches, {held:.0%} of the attention"
    )
    pictures = (example.image, _greyed(example), _heat(example))
    images = "".join(f'<img alt="" src="{_data_url(picture)}">' for picture in pictures)
    text = html.escape(caption)
    return f"<figure>{images}<figcaption><b>{text}</b><br>{_sentence(example, words)}</figcaption></figure>"


def _greyed(example: Example) -> NDArray[np.uint8]:
    """The picture with its dropped patches pale and grey."""
    keep = _upsampled(example.keep_mask, example)[:, :, None]
    grey = example.image.mean(2, keepdims=True) * 0.25 + 176
    return np.where(keep, example.image, grey).astype(np.uint8)


def _heat(example: Example) -> NDArray[np.uint8]:
    """The attention map over the picture, from its least (dark) to its most attended patch."""
    low, high = float(example.attention.min()), float(example.attention.max())
    share = (example.attention - low) / max(high - low, 1e-12)
    colours = matplotlib.colormaps["inferno"](_upsampled(share, example))[:, :, :3] * 255
    blended: NDArray[np.uint8] = (0.75 * colours + 0.25 * example.image).astype(np.uint8)
    return blended


def _upsampled(grid: NDArray[np.generic], example: Example) -> NDArray[np.generic]:
    side = example.image.shape[0] // grid.shape[0]
    return grid.repeat(side, axis=0).repeat(side, axis=1)


def _sentence(example: Example, words: Vocabulary) -> str:
    """The caption, sub-words joined, with the marked tokens bold and the others pale."""
    marked = example.stored_tokens & example.attended_tokens
    parts = []
    for token, bold in zip(example.token_ids[1:-1], marked[1:-1], strict=True):
        word = words.id_to_token(int(token)) or "?"
        space, word = ("", word[2:]) if word.startswith("##") else (" ", word)
        kind = "kept" if bold else "dropped"
        parts.append(f'{space}<span class="{kind}">{html.escape(word)}</span>')
    return "".join(parts).strip()


def _data_url(picture: NDArray[np.uint8]) -> str:
    """The picture in the page: small ones enlarged by whole factors, large ones made smaller."""
    image, longest = Image.fromarray(picture), max(picture.shape[:2])
    if longest > SHOWN_PX:
        image.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
    else:
        factor = SHOWN_PX // longest
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Exemplar Memory: report</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.lead { font-size: 1.05rem; } .quiet { color: #5a6169; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #dde1e6; }
th, td { text-align: right; }
tr > :first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } .charts svg { max-width: 100%; height: auto; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.2rem; }
.classes { font-size: .9rem; }
figure { margin: 0; } figure img { width: 32%; margin-right: 1%; border-radius: 4px; }
figcaption { font-size: .86rem; } .kept { font-weight: 700; color: #0b5; } .dropped { color: #9aa1a9; }
</style></head><body>
<h1>Masked exemplars against full images</h1>
<p class="lead">$verdict</p>
<p class="quiet">$data</p>
<table><tr><th>method</th><th>last</th><th>average</th><th>forgetting</th><th>exemplars</th><th>bytes used</th>
<th>bytes each</th></tr>
$table
</table>
<h2>Accuracy and memory by phase</h2>
<div class="charts">$accuracy $memory</div>
<h2>Classes by phase</h2>
<ol class="classes">
$classes
</ol>
<h2>Masked exemplars</h2>
<p class="quiet">Picture; its stored patches, the dropped ones greyed; the attention of the class token. $note</p>
<div class="grid">
$examples
</div>
</body></html>
""")
