"""A class-incremental run: the base phase that methods share, or a reference's own model, and then each method phase
after phase, from where an earlier run stopped."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from client import MemoryClient
from client.files import DamagedFileError, write_atomically
from learner import world
from learner.baselines.dual_prompt import DualPrompt
from learner.baselines.ease import Ease
from learner.baselines.frozen import FrozenClassifier
from learner.baselines.l2p import L2P
from learner.memory.exemplars import mask_split
from learner.model.backbones.choose import make_backbone
from learner.model.classifier import Classifier, best_device
from learner.run import checkpoint, machine
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.method_run import MethodRun
from learner.run.methods import Method
from learner.run.problem import Problem
from learner.run.setup import Setup
from learner.training.train import train_phase

log = logging.getLogger(__name__)

REFERENCES: dict[str, type[FrozenClassifier]] = {"l2p": L2P, "dualprompt": DualPrompt, "ease": Ease}
"""The references without a memory, by :data:`learner.run.methods.Model`."""


class Run:
    """One configuration in one folder: every method has its own buffer, and those that tune the backbone start from the
    same base phase.

    Args:
        out: ``run.json``, ``base.pt``, and for each method ``<method>/metrics.jsonl`` and ``<method>/checkpoint.pt``.
        client: the memory. Buffers are named as :func:`~learner.run.run_mark.buffer_name` says.
        directory: where data and weights are kept.
        base: the base phase's file, default ``out/base.pt``. Runs that differ only in ``memory`` may share it.
        overwrite: delete buffers of other runs that have this one's names.
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
        overwrite: bool = False,
    ) -> None:
        self.setup = Setup(config, problem, client, out, directory, best_device(), overwrite)
        if world.size() > 1:
            # Asked by all at once, before any of them is asked for a buffer's name.
            log.debug("run %s", self.setup.mark.id)
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

    @property
    def is_finished(self) -> bool:
        """Nothing of the methods that were prepared is left to do."""
        return all(work.is_finished for work in self._prepared.values())

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
            path, content = work.folder / "metrics.jsonl", lines.encode()
            world.from_first(functools.partial(write_atomically, path, content))
            self._report(metrics)
        return work.done


def first_model(setup: Setup, path: Path, method: Method) -> tuple[Classifier, float | None]:
    """The model that a method's first phase begins with, and the seconds that the shared base phase took.

    A method with a model of its own gets that model before any phase, and None.

    Args:
        path: the base phase's file.
    """
    if method.shares_base:
        return base_phase(setup, path)
    model = _pretrained(setup)
    train = method.configure(setup.config).train
    return REFERENCES[method.model](model.backbone, setup.device, bf16=train.bf16, seed=setup.config.seed), None


def base_phase(setup: Setup, path: Path) -> tuple[Classifier, float]:
    """The model after phase 0, with SSF in place for the next phases, and the seconds that its training took.

    It is trained by whichever method comes first, with the run's own settings: what a method changes, it changes from
    phase 1 on. Later methods read it from ``path``.
    """
    config = setup.config
    model = _pretrained(setup)
    tune_all = config.train.base_tunes == "backbone"
    # Nothing is stored before the base phase has ended: it does not depend on the memory.
    settings = {name: value for name, value in config.to_dict().items() if name != "memory"}
    key = checkpoint.config_key(settings | {"samples": setup.problem.fingerprint})
    saved = world.from_first(lambda: _saved(path, key))
    started = time.perf_counter()
    if not tune_all:
        _inject(setup, model)
    if saved:
        checkpoint.restore_head(model, saved)
        model.backbone.load_state_dict(saved["backbone"], strict=tune_all)
        seconds = float(saved["seconds"])
    else:
        _train(setup, model)
        seconds = time.perf_counter() - started
        trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
        weights = {n: v for n, v in model.backbone.state_dict().items() if tune_all or n in trained}
        state = {"key": key, "backbone": weights, "seconds": seconds}
        state |= checkpoint.head_state(model)
        world.from_first(lambda: checkpoint.save(path, state))
    if tune_all:
        _inject(setup, model)
    return model, seconds


def _saved(path: Path, key: str) -> dict[str, Any] | None:
    try:
        return checkpoint.load(path, key)
    except DamagedFileError as error:
        log.warning("%s: the base phase is trained again", error)
        return None


def _pretrained(setup: Setup) -> Classifier:
    config = setup.config
    machine.give_back()  # of the model before, and its last phase
    torch.manual_seed(config.seed)
    backbone = make_backbone(config.backbone, config.data.image_size, config.seed, setup.directory)
    model = Classifier(backbone, setup.device, head=config.train.head, bf16=config.train.bf16)
    if config.train.compile:
        model.backbone.compile_blocks()
    return model


def _train(setup: Setup, model: Classifier) -> None:
    new = setup.problem.train.of_classes(setup.problem.phases[0]).load()
    model.add_classes(new)
    keep = mask_split(model, new, setup.config.mask, setup.generator(0, 2)).keep_patches
    machine.give_back()
    train_phase(
        model,
        new,
        keep,
        None,
        phase=0,
        config=setup.config.train,
        generator=setup.generator(0, 3),
        progress="base phase (shared)",
    )


def _inject(setup: Setup, model: Classifier) -> None:
    number = model.tune_by_ssf(setup.config.train.ssf_layers)
    log.info("SSF: %d trainable parameters in the backbone", number)
