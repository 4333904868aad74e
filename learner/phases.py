"""A class-incremental run: the shared base phase, then phase after phase of train, mask, push, evaluate."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from learner import checkpoint, ssf
from learner.backbones.parts import vilt_from_parts
from learner.backbones.vilt import ViltBackbone, pretrained_vilt, small_vilt
from learner.config import BackboneConfig, LearnerConfig, Method
from learner.data.tokenised import TokenisedSplit
from learner.evaluate import accuracy_by_phase, correct
from learner.examples import save_examples
from learner.exemplars import make_exemplars, mask_split, to_replay
from learner.head import GrowingHead
from learner.train import Classifier, Replay, best_device, train_phase
from memory_format import ConflictError

log = logging.getLogger(__name__)


class RunError(RuntimeError):
    """A run cannot go on; the message says what to do."""


@dataclass(frozen=True)
class PhaseMetrics:
    """One line of ``metrics.jsonl``. Accuracies are shares in [0, 1]; ``old`` is None in phase 0.

    ``by_phase[j]``: accuracy on the classes of phase j. ``pull_seconds``: what training waited for replay.
    """

    method: str
    phase: int
    classes_seen: int
    accuracy: float
    accuracy_new: float
    accuracy_old: float | None
    by_phase: list[float]
    by_split: dict[str, float]
    exemplars: int
    bytes_used: int
    budget_bytes: int
    bytes_per_exemplar: float
    keep_ratio: float
    train_seconds: float
    mask_seconds: float
    push_seconds: float
    pull_seconds: float
    evaluate_seconds: float


@dataclass(frozen=True)
class Problem:
    """The data of a run: what to train on and, by name, what to test on, cut into phases."""

    train: TokenisedSplit
    tests: dict[str, TokenisedSplit]
    phases: list[list[int]]

    def seen(self, phase: int) -> list[int]:
        """Class ids of all phases up to this one."""
        return [class_id for classes in self.phases[: phase + 1] for class_id in classes]


def class_phases(num_classes: int, base: int, step: int, seed: int) -> list[list[int]]:
    """Class ids in a shuffled order, cut into a base phase and equal steps (the last may be smaller)."""
    order = np.random.default_rng(seed).permutation(num_classes).tolist()
    return [order[:base]] + [order[start : start + step] for start in range(base, num_classes, step)]


def make_backbone(config: BackboneConfig, image_size: int, seed: int, directory: Path | None) -> ViltBackbone:
    """The backbone that a configuration names."""
    if config.kind == "parts":
        return vilt_from_parts(
            image_size=image_size, patch_px=config.patch_px, blocks=config.blocks, directory=directory
        )
    if config.kind == "small":
        return small_vilt(
            image_size=image_size,
            patch_px=config.patch_px,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=max(1, config.hidden_size // 64),
            seed=seed,
        )
    backbone = pretrained_vilt(config.name)
    if backbone.config.patch_size != config.patch_px:
        raise ValueError(f"{config.name} has patches of {backbone.config.patch_size} px, not {config.patch_px}")
    return backbone


class Run:
    """One configuration in one folder: every method starts from the same base phase and has its own buffer.

    Args:
        out: ``base.pt``, and for each method ``<method>/metrics.jsonl`` and ``<method>/checkpoint.pt``.
        client: the memory. Buffers are named ``<out's name>-<method>``.
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
        report: Callable[[PhaseMetrics], None] = lambda metrics: None,
    ) -> None:
        self.config = config
        self.problem = problem
        self.client = client
        self.out = out
        self.directory = directory
        self.report = report
        self.device = best_device()
        settings = config.to_dict()
        self.key = checkpoint.config_key(settings)
        # What is stored has no say in the base phase: runs that differ in nothing else may share it.
        self.base_key = checkpoint.config_key({name: settings[name] for name in settings if name != "memory"})

    def run(self, method: Method) -> list[PhaseMetrics]:
        """All phases of one method, going on after the last stage that an earlier run finished."""
        folder = self.out / method
        saved = checkpoint.load(folder / "checkpoint.pt", self.key)
        done = [PhaseMetrics(**line) for line in saved["metrics"]] if saved else []
        for metrics in done:
            self.report(metrics)
        if len(done) == len(self.problem.phases):
            return done
        buffer = self._buffer(method, done, fresh=saved is None) if method != "none" else None
        model = self._base()
        for phase in range(len(done), len(self.problem.phases)):
            trained = saved if saved and saved["trained_phase"] == phase else None
            if phase > 0:
                self._restore_after_base(model, trained or saved, phase)
            metrics = self._phase(method, model, buffer, phase, trained, done)
            done.append(metrics)
            self._save(folder, model, phase, done, trained=False, timings={})
            lines = "".join(json.dumps(asdict(line)) + "\n" for line in done)
            checkpoint.write_atomically(folder / "metrics.jsonl", lines.encode())
            self.report(metrics)
            saved = None
        return done

    def _phase(
        self,
        method: Method,
        model: Classifier,
        buffer: Buffer | None,
        phase: int,
        trained: dict[str, Any] | None,
        done: list[PhaseMetrics],
    ) -> PhaseMetrics:
        classes = self.problem.phases[phase]
        new = self.problem.train.of_classes(classes)
        if phase == 0:
            timings: dict[str, Any] = {"train_seconds": self.base_seconds, "pull_seconds": 0.0, "mask_seconds": 0.0}
        elif trained:
            timings = trained["timings"]
        else:
            timings = self._train(method, model, buffer, phase, new)
            # Saved before the push: a run that dies in between must not train this phase again on a memory
            # that already holds it.
            self._save(self.out / method, model, phase, done, trained=True, timings=timings)
        keep_ratio, push_seconds = 0.0, 0.0
        if buffer is not None:
            started = time.perf_counter()
            masked = mask_split(model, new, self.config.mask, self._generator(phase, 1))
            records = list(
                make_exemplars(
                    model,
                    new,
                    masked,
                    method=method,
                    memory=self.config.memory,
                    phase=phase,
                    learner_id=method,
                    rng=np.random.default_rng([self.config.seed, phase]),
                )
            )
            timings["mask_seconds"] += time.perf_counter() - started
            keep_ratio = float(np.mean([record.keep_mask.mean() for record in records]))
            started = time.perf_counter()
            buffer.push(records, idempotency_key=f"{self.key}-{phase}")
            push_seconds = time.perf_counter() - started
            if self.config.memory.snapshots:
                buffer.take_snapshot(f"phase-{phase}")
            if method == "masked":
                save_examples(self.out / method / f"examples-{phase}.npz", model, new, masked, self.config.mask)
        started = time.perf_counter()
        scores = self._evaluate(model, phase)
        stats = buffer.stats() if buffer else None
        if stats and stats.bytes_used > stats.budget_bytes:
            raise RunError(f"the memory holds {stats.bytes_used} bytes, over its budget of {stats.budget_bytes}")
        return PhaseMetrics(
            method=method,
            phase=phase,
            classes_seen=len(self.problem.seen(phase)),
            **scores,
            exemplars=stats.num_records if stats else 0,
            bytes_used=stats.bytes_used if stats else 0,
            budget_bytes=self.config.memory.budget_bytes,
            bytes_per_exemplar=stats.bytes_used / stats.num_records if stats and stats.num_records else 0.0,
            keep_ratio=keep_ratio,
            push_seconds=push_seconds,
            evaluate_seconds=time.perf_counter() - started,
            **timings,
        )

    def _train(
        self, method: Method, model: Classifier, buffer: Buffer | None, phase: int, new: TokenisedSplit
    ) -> dict[str, float]:
        model.add_classes(new)
        started = time.perf_counter()
        keep = mask_split(model, new, self.config.mask, self._generator(phase, 2)).keep_patches
        mask_seconds = time.perf_counter() - started
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            replay, dataset = None, None
            if buffer is not None:
                dataset = ReplayDataset(
                    buffer,
                    self.config.train.batch_size,
                    seed=self.config.seed,
                    start_step=phase * 1_000_000,  # no step of one phase is a step of another
                    strategy="class_balanced",
                    repair_text=self.config.train.repair_text,
                )
                batches = iter(dataset)
                stack.callback(batches.close)
                replay = _replays(batches)
            train_phase(
                model,
                new,
                keep,
                replay,
                phase=phase,
                config=self.config.train,
                generator=self._generator(phase, 3),
                progress=f"{method} phase {phase}",
            )
        return {
            "train_seconds": time.perf_counter() - started,
            "pull_seconds": dataset.wait_seconds if dataset else 0.0,
            "mask_seconds": mask_seconds,
        }

    def _evaluate(self, model: Classifier, phase: int) -> dict[str, Any]:
        seen = self.problem.seen(phase)
        hits, class_ids, by_split = [], [], {}
        for name, split in self.problem.tests.items():
            part = split.of_classes(seen)
            hits.append(correct(model, part))
            class_ids.append(part.class_ids)
            by_split[name] = float(hits[-1].mean())
        all_hits, all_ids = np.concatenate(hits), np.concatenate(class_ids)
        is_new = np.isin(all_ids, self.problem.phases[phase])
        return {
            "accuracy": float(all_hits.mean()),
            "accuracy_new": float(all_hits[is_new].mean()),
            "accuracy_old": float(all_hits[~is_new].mean()) if phase else None,
            "by_phase": accuracy_by_phase(all_hits, all_ids, self.problem.phases[: phase + 1]),
            "by_split": by_split,
        }

    def _base(self) -> Classifier:
        """The model after phase 0, trained by whichever method comes first, with SSF in place for the next phases."""
        torch.manual_seed(self.config.seed)
        backbone = make_backbone(self.config.backbone, self.config.data.image_size, self.config.seed, self.directory)
        model = Classifier(backbone, self.config.train, self.device)
        tune_all = self.config.train.base_tunes == "backbone"
        if not tune_all:
            _inject(model)
        path = self.out / "base.pt"
        saved = checkpoint.load(path, self.base_key)
        if saved:
            _restore_head(model, saved)
            model.backbone.load_state_dict(saved["backbone"], strict=tune_all)
            self.base_seconds = float(saved["seconds"])
        else:
            self.base_seconds = self._train_base(model)
            trained = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
            weights = {n: v for n, v in model.backbone.state_dict().items() if tune_all or n in trained}
            state = {"key": self.base_key, "backbone": weights, "seconds": self.base_seconds}
            checkpoint.save(path, state | _head_state(model))
        if tune_all:
            _inject(model)
        return model

    def _train_base(self, model: Classifier) -> float:
        """Train phase 0 and return the seconds it took."""
        started = time.perf_counter()
        new = self.problem.train.of_classes(self.problem.phases[0])
        model.add_classes(new)
        keep = mask_split(model, new, self.config.mask, self._generator(0, 2)).keep_patches
        train_phase(
            model,
            new,
            keep,
            None,
            phase=0,
            config=self.config.train,
            generator=self._generator(0, 3),
            progress="base phase (shared)",
        )
        return time.perf_counter() - started

    def _restore_after_base(self, model: Classifier, saved: dict[str, Any] | None, phase: int) -> None:
        if saved and (saved["trained_phase"] == phase or len(saved["metrics"]) == phase):
            _restore_head(model, saved)
            for parameter, value in zip(ssf.scale_shift_parameters(model.backbone), saved["ssf"], strict=True):
                parameter.data.copy_(value)

    def _save(
        self,
        folder: Path,
        model: Classifier,
        phase: int,
        done: list[PhaseMetrics],
        *,
        trained: bool,
        timings: dict[str, float],
    ) -> None:
        state = {
            "key": self.key,
            "trained_phase": phase if trained else -1,
            "timings": timings,
            "metrics": [asdict(metrics) for metrics in done],
            "ssf": [parameter.detach().cpu() for parameter in ssf.scale_shift_parameters(model.backbone)],
        }
        checkpoint.save(folder / "checkpoint.pt", state | _head_state(model))

    def _buffer(self, method: Method, done: list[PhaseMetrics], *, fresh: bool) -> Buffer:
        name = f"{self.out.name}-{method}".lower()
        if fresh and any(info.name == name for info in self.client.buffers()):
            # Exemplars of a run whose checkpoints are gone would be counted as this run's.
            log.warning("buffer %s is left from another run: deleted", name)
            self.client.delete_buffer(name)
        try:
            buffer = self.client.create_buffer(
                name,
                budget_bytes=self.config.memory.budget_bytes,
                disk_limit_bytes=self.config.memory.disk_limit_bytes(len(self.problem.phases)),
            )
        except ConflictError as error:
            raise RunError(f"{error.message}; give the run another --out or delete the buffer") from error
        if done and done[-1].exemplars and not buffer.info().num_records:
            raise RunError(
                f"{self.out} says that buffer {name} holds {done[-1].exemplars} exemplars, but it is empty: "
                f"is this the right service? To start over, delete {self.out}"
            )
        return buffer

    def _generator(self, phase: int, purpose: int) -> torch.Generator:
        """Randomness of one purpose in one phase: the same after a resume as without one."""
        seed = np.random.SeedSequence([self.config.seed, phase, purpose]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> 1))


def _inject(model: Classifier) -> None:
    trainable = ssf.inject(model.backbone)
    log.info("SSF: %d trainable parameters in the backbone", trainable)


def _replays(batches: Iterator[Any]) -> Iterator[Replay]:
    for batch in batches:
        yield to_replay(batch)


def _head_state(model: Classifier) -> dict[str, Any]:
    head = {name: value.detach().cpu() for name, value in model.head.state_dict().items()}
    return {"head": head, "classes_seen": list(model.classes_seen)}


def _restore_head(model: Classifier, saved: dict[str, Any]) -> None:
    head = GrowingHead(model.backbone.dim, kind=model.head.kind)
    head.grow(torch.zeros(len(saved["classes_seen"]), model.backbone.dim))
    head.load_state_dict(saved["head"])
    model.head = head.to(model.device)
    model.classes_seen = list(saved["classes_seen"])
