"""A class-incremental run: each method phase after phase, from where an earlier run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from client import MemoryClient
from client.files import write_atomically
from learner.model.classifier import Classifier
from learner.model.device import best_device
from learner.run.base_phase import base_phase, first_model
from learner.run.config import LearnerConfig
from learner.run.method_run import MethodRun
from learner.run.methods import Method
from learner.run.phase_metrics import PhaseMetrics
from learner.run.problem import Problem
from learner.run.setup import Setup


class Run:
    """One configuration in one folder: every method has its own buffer, and those that tune the backbone start from the
    same base phase.

    Args:
        out: ``run.json``, ``base.pt``, and for each method ``<method>/metrics.jsonl`` and ``<method>/checkpoint.pt``.
        client: the memory. Buffers are named as :func:`~learner.run.run_mark.buffer_name` says.
        directory: where data and weights are kept.
        base: the base phase's file, default ``out/base.pt``. Runs that differ only in ``memory`` may share it.
        report: called with each phase's metrics as they come (also those of phases done by an earlier run).
    """

    def __init__(
        self,
        config: LearnerConfig,
        problem: Problem,
        client: MemoryClient,
        out: Path,
        *,
        directory: Path | None = None,
        base: Path | None = None,
        report: Callable[[PhaseMetrics], None] = lambda metrics: None,
    ) -> None:
        self.setup = Setup(config, problem, client, out, directory, best_device())
        self.base_path = base or out / "base.pt"
        self._report = report
        self._prepared: dict[str, MethodRun] = {}

    def prepare(self, methods: Iterable[Method]) -> None:
        """Look at the checkpoints and buffers of methods, so that what stands in a run's way is said before anything is
        trained.

        Raises:
            RunError: a buffer is another run's or has lost its exemplars, or a checkpoint cannot be read.
            FormatError: the service does not take the buffer's settings.
        """
        for method in methods:
            work = self._prepared[method.name] = MethodRun(self.setup, method)
            work.look()

    def base(self) -> tuple[Classifier, float]:
        """The model after the base phase that methods share, and the seconds that its training took."""
        return base_phase(self.setup, self.base_path)

    def run(self, method: Method) -> list[PhaseMetrics]:
        """All phases of one method, going on after the last stage that an earlier run finished."""
        work = self._prepared.pop(method.name, None) or MethodRun(self.setup, method)
        for metrics in work.done:
            self._report(metrics)
        if work.is_finished:
            return work.done
        work.open_buffer()
        for metrics in work.phases(*first_model(self.setup, self.base_path, method)):
            lines = "".join(json.dumps(asdict(line)) + "\n" for line in work.done)
            write_atomically(work.folder / "metrics.jsonl", lines.encode())
            self._report(metrics)
        return work.done
