"""All figures of the page as CSV and as JSON, to be read by other programs."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from learner.run.config import LearnerConfig
from learner.run.phase_metrics import PhaseMetrics
from learner.run.seeds import SeedResults

_LISTED = ("method", "phase", "by_phase", "by_split", "by_modality", "by_class")
_PLAIN = tuple(field.name for field in fields(PhaseMetrics) if field.name not in _LISTED)


def as_csv(runs: SeedResults) -> str:
    """A row for each seed, method and phase. Phases count from 1; ``accuracy_phase_2`` is that on the classes which
    came in the second; what there is not is empty."""
    lines = [(seed, line) for seed, results in runs.items() for phases in results.values() for line in phases]
    most = max(len(line.by_phase) for _, line in lines)
    parts = {
        f"{kind[3:]}_{name}": (kind, name) for _, line in lines for kind in _LISTED[3:5] for name in getattr(line, kind)
    }
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["seed", "method", "phase", *_PLAIN, *(f"accuracy_phase_{j + 1}" for j in range(most)), *parts])
    for seed, line in lines:
        matrix = [*line.by_phase, *[None] * (most - len(line.by_phase))]
        parted = [getattr(line, kind).get(name) for kind, name in parts.values()]
        writer.writerow([seed, line.method, line.phase + 1, *(getattr(line, n) for n in _PLAIN), *matrix, *parted])
    return out.getvalue()


def as_json(
    config: LearnerConfig,
    runs: SeedResults,
    classes: Mapping[int, Sequence[Sequence[str]]],
    machine: Mapping[str, str],
) -> str:
    """All of it: by seed and method the lines of ``metrics.jsonl``; classes of each phase by seed; configuration and
    machine."""
    document: dict[str, Any] = {
        "runs": {
            seed: {method: [asdict(line) for line in lines] for method, lines in results.items()}
            for seed, results in runs.items()
        },
        "classes": classes,
        "config": config.to_dict(),
        "machine": machine,
    }
    return json.dumps(document, indent=1) + "\n"


def download(text: str, media_type: str) -> str:
    """A text as an address that holds it."""
    return f"data:{media_type};base64,{base64.b64encode(text.encode()).decode()}"
