"""The Markdown and the pictures of results, made from their JSON documents.

python -m benchmarks.results              of all that are kept here
python -m benchmarks.results FILE.json    of one
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.adapters.report import chart as adapters_chart
from benchmarks.adapters.report import markdown as adapters_markdown
from benchmarks.common.document import RESULTS, Chart, Markdown, read, render
from benchmarks.cost.chart import chart as cost_chart
from benchmarks.cost.report import markdown as cost_markdown
from benchmarks.density.chart import chart as density_chart
from benchmarks.density.report import markdown as density_markdown
from benchmarks.gain.report import chart as gain_chart
from benchmarks.gain.report import markdown as gain_markdown
from benchmarks.learner.chart import chart as learner_chart
from benchmarks.learner.report import markdown as learner_markdown
from benchmarks.replicas.report import chart as replicas_chart
from benchmarks.replicas.report import markdown as replicas_markdown
from benchmarks.sharing.report import chart as sharing_chart
from benchmarks.sharing.report import markdown as sharing_markdown
from benchmarks.storage.chart import chart as storage_chart
from benchmarks.storage.report import markdown as storage_markdown

REPORTS: dict[str, tuple[Markdown, Chart]] = {
    "adapters": (adapters_markdown, adapters_chart),
    "cost": (cost_markdown, cost_chart),
    "density": (density_markdown, density_chart),
    "gain": (gain_markdown, gain_chart),
    "learner": (learner_markdown, learner_chart),
    "replicas": (replicas_markdown, replicas_chart),
    "sharing": (sharing_markdown, sharing_chart),
    "storage": (storage_markdown, storage_chart),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="default: all below benchmarks/results")
    for path in parser.parse_args(arguments).files or sorted(RESULTS.rglob("*.json")):
        kept = read(path)
        render(kept, path, *REPORTS[kept.benchmark])
        print(f"{path.with_suffix('.md')}, .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
