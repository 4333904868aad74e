"""The report as the service keeps it: figures and words, and which exemplars to show. Pictures stay here: the service
has the exemplars, and what is erased there is then shown nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from client import RunReport
from learner.report.page import SeedRun, data_name, held_in, setting_words, settings_words
from learner.report.pictures import preferred
from learner.run import machine
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.methods import parse_method
from learner.run.seeds import SeedResults, Spread, seeds_verdict, summarise_seeds
from learner.run.summary import label, verdict
from memory_format import FormatError
from memory_format.api.runs import (
    MAX_SHOWN,
    CountOverSeeds,
    RunMethod,
    RunPhase,
    ShareOverSeeds,
    ShownExemplar,
)
from memory_format.api.terms import MAX_CLASS_NAME, MAX_DESCRIPTION


def report_of(out: Path, config: LearnerConfig, runs: Mapping[int, SeedRun], class_names: Sequence[str]) -> RunReport:
    """What the service is told of a finished run. Arguments as for :func:`learner.report.page.write_report`.

    Raises:
        FormatError: ``invalid_request``: there is more of it than a report has room for.
    """
    try:
        return _report(out, config, runs, class_names)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(f"its report will not do, {where}: {first['msg']}", code="invalid_request") from error


def _report(out: Path, config: LearnerConfig, runs: Mapping[int, SeedRun], class_names: Sequence[str]) -> RunReport:
    results: SeedResults = {seed: run.results for seed, run in runs.items()}
    first = next(iter(runs.values()))
    lines = [lines for of_seed in results.values() for lines in of_seed.values()]
    return RunReport(
        name=_short(out.resolve().name) or "run",
        title=_short(data_name(config)) or "data",
        verdict=_text(seeds_verdict(results) if len(runs) > 1 else verdict(first.results)),
        setting=_text(setting_words(config, len(class_names), results)),
        num_seeds=len(runs),
        budget_bytes=max(phases[-1].budget_bytes for phases in lines),
        methods=list(_methods(runs, results)),
        phases=[[_short(name) or "?" for name in names] for names in first.classes],
        exemplars=list(_exemplars(first))[:MAX_SHOWN],
        settings=_facts(settings_words(config.to_dict())),
        machine=_facts(machine.recall(out)),
    )


def _methods(runs: Mapping[int, SeedRun], results: SeedResults) -> Iterator[RunMethod]:
    for method, found in summarise_seeds(results).items():
        names = (run.buffers.get(method) for run in runs.values())
        yield RunMethod(
            method=_short(method),
            label=_short(label(method)),
            buffers=list(dict.fromkeys(filter(None, names))),
            last=_share(found.last),
            average=_share(found.average),
            forgetting=_share(found.forgetting),
            exemplars=_count(found.exemplars),
            bytes_used=_count(found.bytes_used),
            phases=[_phase(lines) for lines in zip(*(of_seed[method] for of_seed in results.values()), strict=True)],
        )


def _phase(lines: Sequence[PhaseMetrics]) -> RunPhase:
    """One phase of a method, the mean over the seeds."""
    return RunPhase(
        classes_seen=float(np.mean([line.classes_seen for line in lines])),
        accuracy=float(np.mean([line.accuracy for line in lines])),
        exemplars=float(np.mean([line.exemplars for line in lines])),
        bytes_used=float(np.mean([line.bytes_used for line in lines])),
    )


def _exemplars(run: SeedRun) -> Iterator[ShownExemplar]:
    """Of the first method that stores masked exemplars, the most preferred one of each class."""
    masked = [method for method in run.results if parse_method(method).stores == "masked"]
    for method in masked[:1]:
        name = run.buffers.get(method)
        for example in preferred(run.folder / parse_method(method).slug, held_in(run.folder, method)) if name else ():
            yield ShownExemplar(buffer=name or "", exemplar_id=example.exemplar_id)


def _share(figure: Spread) -> ShareOverSeeds:
    return ShareOverSeeds(mean=figure.mean, deviation=figure.deviation)


def _count(figure: Spread) -> CountOverSeeds:
    return CountOverSeeds(mean=figure.mean, deviation=figure.deviation)


def _facts(facts: Mapping[str, str]) -> dict[str, str]:
    return {_short(name): _text(value) for name, value in facts.items() if name}


def _short(text: str) -> str:
    return _text(text)[:MAX_CLASS_NAME]


def _text(text: str) -> str:
    """Names of files need not be text."""
    return text.replace("\0", "").encode(errors="replace").decode()[:MAX_DESCRIPTION]
