"""A class-incremental run: the base phase that methods share, then each method phase after phase."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client import MemoryClient
from learner.baselines.choose import REFERENCES
from learner.data.base import DataError
from learner.files import DamagedFileError, write_atomically
from learner.memory.exemplars import mask_split
from learner.model import ssf
from learner.model.backbones.choose import make_backbone
from learner.model.classifier import Classifier
from learner.model.device import best_device
from learner.model.tokenised import Samples
from learner.run import checkpoint
from learner.run.config import LearnerConfig
from learner.run.method_run import MethodRun
from learner.run.methods import Method
from learner.run.phase_metrics import PhaseMetrics
from learner.run.phase_order import cut
from learner.run.run_mark import RunError, RunMark, buffer_name, mark_of
from learner.training.train import train_phase
from learner.training.warmup import warm_up

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """The data of a run: what to train on and, by name, what to test on, cut into phases.

    Attributes:
        phases: class ids of each; a class belongs to one phase.
        class_names: by class id, where they have names.
        notes: what was made of the data that its owner may not expect, a sentence each.

    Raises:
        DataError: a phase is empty, or there is nothing to train or to test on.
    """

    train: Samples
    tests: Mapping[str, Samples]
    phases: list[list[int]]
    class_names: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        seen: set[int] = set()
        trained = set(self.train.class_ids.tolist())
        tested = {name: set(split.class_ids.tolist()) for name, split in self.tests.items()}
        for number, classes in enumerate(self.phases, start=1):
            if not classes:
                raise DataError(f"phase {number} is empty: every phase needs a class")
            for class_id in classes:
                if class_id in seen:
                    raise DataError(f"class {self._named(class_id)} is in two phases")
                if class_id not in trained:
                    raise DataError(f"class {self._named(class_id)} of phase {number} has no sample to train on")
            seen.update(classes)
            if not any(classes_tested & set(classes) for classes_tested in tested.values()):
                named = ", ".join(map(self._named, classes))
                raise DataError(
                    f"no class of phase {number} ({named}) has a sample to test on: add some, or make phases larger"
                )
            for name, classes_tested in tested.items():
                if not classes_tested & seen:
                    raise DataError(
                        f"split {name!r} tests none of the classes of phase 1: enlarge data.base_classes, or choose "
                        f"another data.class_order_seed"
                    )
        untested = sorted(seen.difference(*tested.values()))
        if untested:
            log.warning(
                "nothing to test on of %s: accuracy is that of the others", ", ".join(map(self._named, untested))
            )

    @property
    def fingerprint(self) -> str:
        """Changes when samples or classes are added or taken away: what was trained before is then of other data."""
        digest = hashlib.sha256(repr((self.phases, list(self.class_names))).encode())
        for name, split in sorted({"train": self.train, **self.tests}.items()):
            digest.update(name.encode() + split.class_ids.tobytes())
        return digest.hexdigest()[:16]

    @property
    def named_phases(self) -> list[list[str]]:
        """The classes of each phase, by name where they have one."""
        return [[self.name_of(class_id) for class_id in classes] for classes in self.phases]

    def name_of(self, class_id: int) -> str:
        """The class's name, or its id where it has none."""
        return self.class_names[class_id] if class_id < len(self.class_names) else str(class_id)

    def _named(self, class_id: int) -> str:
        return repr(self.class_names[class_id]) if 0 <= class_id < len(self.class_names) else str(class_id)

    def seen(self, phase: int) -> list[int]:
        """Class ids of all phases up to this one."""
        return [class_id for classes in self.phases[: phase + 1] for class_id in classes]


def class_phases(num_classes: int, base: int, step: int, seed: int) -> list[list[int]]:
    """Class ids in a shuffled order, cut into a base phase and equal steps (the last may be smaller)."""
    return cut(np.random.default_rng(seed).permutation(num_classes).tolist(), base, step)


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
        self.config = config
        self.problem = problem
        self.client = client
        self.out = out
        self.directory = directory
        self.report = report
        self.device = best_device()
        self.base_path = base or out / "base.pt"
        self._prepared: dict[str, tuple[MethodRun, dict[str, Any] | None]] = {}

    @functools.cached_property
    def mark(self) -> RunMark:
        """What tells the run's buffers from those of others."""
        return mark_of(self.out)

    def buffer_name(self, method: Method) -> str:
        """What the method's buffer is called."""
        return buffer_name(self.mark, method.configure(self.config).memory.buffer, method.slug)

    def prepare(self, methods: Iterable[Method]) -> None:
        """Look at the checkpoints and buffers of methods, so that what stands in a run's way is said before anything is
        trained.

        Raises:
            RunError: see :meth:`MethodRun.look`, or a checkpoint cannot be read.
            FormatError: the service does not take the buffer's settings.
        """
        for method in methods:
            work, _ = self._prepared[method.name] = self._begun(method)
            if method.stores != "nothing" and len(work.done) < len(self.problem.phases):
                work.look()

    def run(self, method: Method) -> list[PhaseMetrics]:
        """All phases of one method, going on after the last stage that an earlier run finished."""
        work, saved = self._prepared.pop(method.name) if method.name in self._prepared else self._begun(method)
        for metrics in work.done:
            self.report(metrics)
        if len(work.done) == len(self.problem.phases):
            return work.done
        if method.stores != "nothing":
            work.open_buffer(fresh=saved is None)
        work.model, work.base_seconds = self.start(method)
        for phase in range(len(work.done), len(self.problem.phases)):
            trained = saved if saved and saved["trained_phase"] == phase else None
            if saved:
                checkpoint.restore_model(work.model, saved)
            metrics = work.phase(phase, trained["timings"] if trained else None)
            work.done.append(metrics)
            work.save(phase, trained=False, timings={})
            lines = "".join(json.dumps(asdict(line)) + "\n" for line in work.done)
            write_atomically(work.folder / "metrics.jsonl", lines.encode())
            self.report(metrics)
            saved = None
        return work.done

    def _begun(self, method: Method) -> tuple[MethodRun, dict[str, Any] | None]:
        """A method with what an earlier run has done of it, and its checkpoint."""
        work = MethodRun(self, method)
        try:
            saved = checkpoint.load(work.folder / "checkpoint.pt", work.key)
        except DamagedFileError as error:
            raise RunError(
                f"{error}: put it back from a copy, or delete {work.folder} to begin {method.name} again from its start"
            ) from error
        work.done = [PhaseMetrics(**line) for line in saved["metrics"]] if saved else []
        return work, saved

    def start(self, method: Method) -> tuple[Classifier, float | None]:
        """What a method's phases begin with: the model after the shared base phase and the seconds that this took; or,
        for a method with a model of its own, that model before any phase, and None."""
        if method.shares_base:
            return self.base()
        model = self._pretrained()
        self._warm_up(model)
        train = method.configure(self.config).train
        return REFERENCES[method.model](model.backbone, self.device, bf16=train.bf16, seed=self.config.seed), None

    def base(self) -> tuple[Classifier, float]:
        """The model after phase 0, with SSF in place for the next phases, and the seconds that its training took.

        It is trained by whichever method comes first, with the run's own settings: what a method changes, it changes
        from phase 1 on.
        """
        config = self.config
        model = self._pretrained()
        tune_all = config.train.base_tunes == "backbone"
        keep_all = tune_all or config.warmup.epochs > 0
        # Nothing is stored before the base phase has ended: it does not depend on the memory.
        settings = {name: value for name, value in config.to_dict().items() if name != "memory"}
        key = checkpoint.config_key(settings | {"samples": self.problem.fingerprint})
        try:
            saved = checkpoint.load(self.base_path, key)
        except DamagedFileError as error:
            log.warning("%s: the base phase is trained again", error)
            saved = None
        started = time.perf_counter()
        if not saved:
            self._warm_up(model)
        if not tune_all:
            self._inject(model)
        if saved:
            checkpoint.restore_head(model, saved)
            model.backbone.load_state_dict(saved["backbone"], strict=keep_all)
            seconds = float(saved["seconds"])
        else:
            self._train_base(model)
            seconds = time.perf_counter() - started
            trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
            weights = {n: v for n, v in model.backbone.state_dict().items() if keep_all or n in trained}
            state = {"key": key, "backbone": weights, "seconds": seconds}
            checkpoint.save(self.base_path, state | checkpoint.head_state(model))
        if tune_all:
            self._inject(model)
        return model, seconds

    def _pretrained(self) -> Classifier:
        config = self.config
        torch.manual_seed(config.seed)
        backbone = make_backbone(config.backbone, config.data.image_size, config.seed, self.directory)
        model = Classifier(backbone, self.device, head=config.train.head, bf16=config.train.bf16)
        if config.train.compile:
            model.backbone.compile_blocks()
        return model

    def _warm_up(self, model: Classifier) -> None:
        if self.config.warmup.epochs:
            first = self.problem.train.of_classes(self.problem.phases[0]).load()
            warm_up(model, first, self.config.warmup, self.generator(0, 4), "warm-up (shared)")

    def _train_base(self, model: Classifier) -> None:
        new = self.problem.train.of_classes(self.problem.phases[0]).load()
        model.add_classes(new)
        train_phase(
            model,
            new,
            mask_split(model, new, self.config.mask, self.generator(0, 2)).keep_patches,
            None,
            phase=0,
            config=self.config.train,
            generator=self.generator(0, 3),
            progress="base phase (shared)",
        )

    def _inject(self, model: Classifier) -> None:
        number, pattern = self.config.train.ssf_layers, ssf.DEFAULT_PATTERN
        if number:
            pattern = ssf.last_layers_pattern(len(model.backbone.encoder.layer), number)
        log.info("SSF: %d trainable parameters in the backbone", model.tune_by_ssf(pattern))

    def generator(self, phase: int, purpose: int) -> torch.Generator:
        """Randomness of one purpose in one phase: the same after a resume as without one."""
        seed = np.random.SeedSequence([self.config.seed, phase, purpose]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))
