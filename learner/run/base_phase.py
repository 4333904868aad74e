"""What the phases of a method begin with: the base phase that methods share, or a reference's own model."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from client.files import DamagedFileError
from learner.baselines.choose import REFERENCES
from learner.memory.exemplars import mask_split
from learner.model import ssf
from learner.model.backbones.choose import make_backbone
from learner.model.classifier import Classifier
from learner.run import checkpoint
from learner.run.methods import Method
from learner.run.setup import Setup
from learner.training.ablations.extras import Extras
from learner.training.train import train_phase
from learner.training.warmup import warm_up

log = logging.getLogger(__name__)


def first_model(setup: Setup, path: Path, method: Method) -> tuple[Classifier, float | None]:
    """The model that a method's first phase begins with, and the seconds that the shared base phase took.

    A method with a model of its own gets that model before any phase, and None.

    Args:
        path: the base phase's file.
    """
    if method.shares_base:
        return base_phase(setup, path)
    model = _pretrained(setup)
    _warm_up(setup, model)
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
    keep_all = tune_all or config.warmup.epochs > 0
    # Nothing is stored before the base phase has ended: it does not depend on the memory.
    settings = {name: value for name, value in config.to_dict().items() if name != "memory"}
    key = checkpoint.config_key(settings | {"samples": setup.problem.fingerprint})
    try:
        saved = checkpoint.load(path, key)
    except DamagedFileError as error:
        log.warning("%s: the base phase is trained again", error)
        saved = None
    started = time.perf_counter()
    if not saved:
        _warm_up(setup, model)
    if not tune_all:
        _inject(setup, model)
    if saved:
        checkpoint.restore_head(model, saved)
        model.backbone.load_state_dict(saved["backbone"], strict=keep_all)
        seconds = float(saved["seconds"])
    else:
        _train(setup, model)
        seconds = time.perf_counter() - started
        trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
        weights = {n: v for n, v in model.backbone.state_dict().items() if keep_all or n in trained}
        state = {"key": key, "backbone": weights, "seconds": seconds}
        checkpoint.save(path, state | checkpoint.head_state(model))
    if tune_all:
        _inject(setup, model)
    return model, seconds


def _pretrained(setup: Setup) -> Classifier:
    config = setup.config
    torch.manual_seed(config.seed)
    backbone = make_backbone(config.backbone, config.data.image_size, config.seed, setup.directory)
    model = Classifier(backbone, setup.device, head=config.train.head, bf16=config.train.bf16)
    if config.train.compile:
        model.backbone.compile_blocks()
    return model


def _warm_up(setup: Setup, model: Classifier) -> None:
    if setup.config.warmup.epochs:
        first = setup.problem.train.of_classes(setup.problem.phases[0]).load()
        warm_up(model, first, setup.config.warmup, setup.generator(0, 4), "warm-up (shared)")


def _train(setup: Setup, model: Classifier) -> None:
    new = setup.problem.train.of_classes(setup.problem.phases[0]).load()
    model.add_classes(new)
    train_phase(
        model,
        new,
        mask_split(model, new, setup.config.mask, setup.generator(0, 2)).keep_patches,
        None,
        phase=0,
        config=setup.config.train,
        extras=Extras(setup.config.ablations),
        generator=setup.generator(0, 3),
        progress="base phase (shared)",
    )


def _inject(setup: Setup, model: Classifier) -> None:
    number, pattern = setup.config.train.ssf_layers, ssf.DEFAULT_PATTERN
    if number:
        pattern = ssf.last_layers_pattern(len(model.backbone.encoder.layer), number)
    log.info("SSF: %d trainable parameters in the backbone", model.tune_by_ssf(pattern))
