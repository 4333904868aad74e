"""How many exemplars fit where one full sample was: every codec and quality, with real attention masks.

    python -m benchmarks.density                   all of it, about ten minutes on two cores
    python -m benchmarks.density --images DIR      the photographs' part on a folder of one's own
    python -m benchmarks.density --quick           the same measurements on a few pictures: do they work?

benchmarks/README.md says how each figure is made. Tables and progress go to stderr and to files; the last line of
stdout is one JSON object with the figures that the project promises something about.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from benchmarks.common.document import RESULTS, Benchmark, add_result_options
from benchmarks.density.chart import chart
from benchmarks.density.decode import decode_speed
from benchmarks.density.masks import at_random, masked
from benchmarks.density.measure import Setting, measure
from benchmarks.density.pictures import Picture, PicturesMissingError, Sample, emoji, folder, photographs
from benchmarks.density.plan import DENSEST, KEEP_RATIOS, Plan, settings
from benchmarks.density.report import markdown
from benchmarks.density.run import PAPERS_RATIO, Row, Run, row, summary
from learner.data.fetch import FetchError
from learner.run.config import LearnerConfig

_BENCHMARK = Benchmark(
    "density",
    ("exemplar-memory", "numpy", "pillow", "imagecodecs", "scikit-image", "scikit-learn", "torch"),
    markdown,
    chart,
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    plan = Plan.small() if options.quick else Plan()
    if options.most:
        plan = replace(plan, most_pictures=options.most)
    started = time.monotonic()
    try:
        run = _run(plan, options)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except (PicturesMissingError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = None if options.quick or options.images else RESULTS
    _BENCHMARK.publish(run, summary(run), options, arguments, started, results)
    return 0


def _run(plan: Plan, options: argparse.Namespace) -> Run:
    skipped: list[str] = []

    def note(why: str) -> None:
        skipped.append(why)
        tqdm.write(why, file=sys.stderr)

    wanted = settings(plan, note)
    if options.images:
        pictures = folder(options.images, plan.most_pictures, note)
    else:
        pictures = photographs(plan.num_stamps, options.data, note)
        if plan.quick:
            pictures = pictures[: plan.most_pictures]
    run = Run(_told(pictures, options.images), skipped=skipped)
    photo_samples = _masked("photographs", pictures, options.data)
    run.photos = _measured("photographs", photo_samples, wanted)
    on_random = [setting for setting in wanted if setting.family == DENSEST][:2]
    run.control = _measured("photographs, random masks", at_random(photo_samples, PAPERS_RATIO), on_random)
    if not options.images:
        default = LearnerConfig().memory.codec
        learners = Setting("the learner's default", _in_words(default), default)
        emoji_samples = _masked("emoji", emoji(plan.num_emoji, options.data), options.data)
        # Targets in bytes, and what bytes are to gain, are of the size of photographs.
        large = ("record_bytes", "db_per_kb")
        small = [setting for setting in wanted if not any(target in str(setting.codec) for target in large)]
        run.emoji = _measured("emoji", emoji_samples, [learners, *small])
        for size, samples in (("demo", emoji_samples), ("vilt", photo_samples)):
            fast = [setting for setting in wanted if setting.codec["id"] in _FAST and setting.knob in _USUAL]
            run.speeds[size] = [decode_speed(samples, setting, PAPERS_RATIO, plan.decode_rounds) for setting in fast]
    return run


_FAST = ("em_webp", "em_jpeg", "em_avif")
_USUAL = ("quality 30",)


def _masked(what: str, pictures: Sequence[Picture], data: Path | None) -> list[Sample]:
    with tqdm(total=len(pictures), desc=f"masks of {what}", unit="picture", file=sys.stderr) as bar:
        return masked(pictures, KEEP_RATIOS, data, bar.update)


def _measured(what: str, samples: Sequence[Sample], wanted: Sequence[Setting]) -> list[Row]:
    with tqdm(total=len(samples), desc=f"codecs on {what}", unit="picture", file=sys.stderr) as bar:
        return [row(result) for result in measure(samples, wanted, bar.update)]


def _told(pictures: Sequence[Picture], images: Path | None) -> str:
    """What the photographs are, without naming anybody's folder."""
    if images:
        return f"{len(pictures)} pictures of a folder."
    composed = sum(" on " in picture.name for picture in pictures)
    return (
        f"{len(pictures) - composed} photographs that the wheels of scikit-image and scikit-learn ship, and {composed} "
        "photo stamps of Debian's tuxpaint-stamps-default on them."
    )


def _in_words(codec: dict[str, object]) -> str:
    return " ".join(str(value) if name == "id" else f"{name} {value}" for name, value in codec.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="measure on the pictures of a folder, emoji left out"
    )
    parser.add_argument("--most", type=int, metavar="N", help="at most so many pictures of the folder (default: 64)")
    parser.add_argument(
        "--quick", action="store_true", help="a few pictures; writes no results unless --results is given"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of data and weights (default: $EXEMPLAR_MEMORY_DATA, else the user's cache)"
    )
    add_result_options(parser)
    return parser


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
