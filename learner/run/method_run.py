"""One method's phases: train, mask, push, evaluate."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client import Buffer
from client.dataset import ReplayDataset
from learner.memory.contents import save_held
from learner.memory.exemplars import exemplar_features, make_exemplars, mask_split, rerank, to_replay, what_to_store
from learner.memory.stored_examples import save_examples
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.run import checkpoint
from learner.run.evaluate import MODALITIES, accuracy_by_phase, correct
from learner.run.methods import Method
from learner.run.phase_metrics import PhaseMetrics
from learner.run.run_mark import RunError
from learner.training.techniques.refit import fit_ridge
from learner.training.techniques.translate import Translation, fit_translation
from learner.training.techniques.weight_align import align_weights
from learner.training.train import Replay, train_phase
from memory_format import ConflictError, NotFoundError

if TYPE_CHECKING:
    from learner.run.run import Run

log = logging.getLogger(__name__)


class MethodRun:
    """One method's way through the phases. :class:`learner.run.run.Run` drives it."""

    model: Classifier
    base_seconds: float | None
    """What the shared base phase took; None: the method trains its own."""
    translation: Translation | None
    """From features of this phase's exemplars to those of its full samples, where the test wants it."""

    def __init__(self, run: Run, method: Method) -> None:
        self.run = run
        self.method = method
        self.problem = run.problem
        self.config = method.configure(run.config)
        self.folder = run.out / method.slug
        self.key = checkpoint.config_key(
            {"run": run.config.to_dict(), "method": self.config.to_dict(), "data": run.problem.fingerprint}
        )
        self.done: list[PhaseMetrics] = []
        self.buffer: Buffer | None = None
        self.translation = None

    @property
    def buffer_name(self) -> str:
        """Of the buffer that the method stores in."""
        return self.run.buffer_name(self.method)

    def look(self) -> int:
        """How many exemplars the buffer holds; made where there is none, and what is there stays as it is.

        Raises:
            RunError: it is another run's, or another one than the checkpoints tell of.
        """
        client, name, mark = self.run.client, self.buffer_name, self.run.mark
        try:
            info = Buffer(client, name).info()
        except NotFoundError:
            info = None
        if info is not None and not mark.owns(info.description):
            whose = f"it is that of {info.description!r}" if info.description else "it does not say whose it is"
            raise RunError(
                f"buffer {name} is not this run's: {whose}. It stays as it is; give this run buffers of another name "
                f"(--set memory.buffer=NAME) or another --out, or delete that buffer if nobody needs it"
            )
        if self.done and self.done[-1].exemplars and not (info and info.num_records):
            raise RunError(
                f"{self.run.out} says that buffer {name} holds {self.done[-1].exemplars} exemplars, but it is empty: "
                f"is this the right service? To start over, delete {self.run.out}"
            )
        if info is None:
            self.buffer = self._create()
        return info.num_records if info else 0

    def open_buffer(self, *, fresh: bool) -> None:
        """Get the method's buffer; an empty one where the method has not run before (``fresh``).

        Raises:
            RunError: as :meth:`look`.
        """
        left_over = self.look()
        if fresh and self.buffer is None:
            # Exemplars whose checkpoints are gone, or are of other settings, would be counted as this run's.
            if left_over:
                log.warning("buffer %s is left from before this run began anew: deleted", self.buffer_name)
            self.run.client.delete_buffer(self.buffer_name)
        self.buffer = self._create()

    def _create(self) -> Buffer:
        memory = self.config.memory
        try:
            return self.run.client.create_buffer(
                self.buffer_name,
                budget_bytes=None if memory.grows else memory.budget_bytes,
                full_samples_per_class=memory.full_samples_per_class if memory.grows else None,
                full_sample_bytes=memory.full_sample_bytes if memory.grows else None,
                disk_limit_bytes=memory.disk_limit_bytes(
                    sum(map(len, self.problem.phases)), num_phases=len(self.problem.phases)
                ),
                description=self.run.mark.description,
            )
        except ConflictError as error:
            raise RunError(f"{error.message}; give the run another --out or delete the buffer") from error

    def phase(self, phase: int, timings: dict[str, Any] | None) -> PhaseMetrics:
        """One phase, from the end of its training on where ``timings`` of that are there already."""
        new = self.problem.train.of_classes(self.problem.phases[phase]).load()
        if phase == 0 and self.base_seconds is not None:
            timings = {"train_seconds": self.base_seconds, "pull_seconds": 0.0, "mask_seconds": 0.0}
        elif timings is None:
            timings = self._train(phase, new)
            # Saved before the push: a run that dies in between must not train this phase again on a memory
            # that already holds it.
            self.save(phase, trained=True, timings=timings)
        keep_ratio, push_seconds = 0.0, 0.0
        if self.buffer is not None:
            keep_ratio, mask_seconds, push_seconds = self._store(self.buffer, phase, new)
            timings = {**timings, "mask_seconds": timings["mask_seconds"] + mask_seconds}
        started = time.perf_counter()
        with self._test_head(phase):
            scores = self._evaluate(phase)
        stats = self.buffer.stats() if self.buffer else None
        if self.buffer and stats and phase == len(self.problem.phases) - 1:
            save_held(self.folder, self.buffer, stats)
        if stats and stats.bytes_used > stats.budget_bytes:
            raise RunError(f"the memory holds {stats.bytes_used} bytes, over its budget of {stats.budget_bytes}")
        return PhaseMetrics(
            method=self.method.name,
            phase=phase,
            classes_seen=len(self.problem.seen(phase)),
            **scores,
            exemplars=stats.num_records if stats else 0,
            bytes_used=stats.bytes_used if stats else 0,
            budget_bytes=stats.budget_bytes if stats else 0,
            bytes_per_exemplar=stats.bytes_used / stats.num_records if stats and stats.num_records else 0.0,
            keep_ratio=keep_ratio,
            push_seconds=push_seconds,
            evaluate_seconds=time.perf_counter() - started,
            **timings,
        )

    def _train(self, phase: int, new: TokenisedSplit) -> dict[str, float]:
        config, model, run = self.config.train, self.model, self.run
        teacher = copy.deepcopy(model).eval() if config.distill else None
        num_old = len(model.classes_seen)
        model.add_classes(new)
        if self.method.all_data:
            new = self.problem.train.of_classes(self.problem.seen(phase)).load()
        started = time.perf_counter()
        keep = mask_split(model, new, self.config.mask, run.generator(phase, 2)).keep_patches
        mask_seconds = time.perf_counter() - started
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            replay, dataset = None, None
            if self.buffer is not None:
                dataset = ReplayDataset(
                    self.buffer,
                    config.batch_size,
                    seed=self.config.seed,
                    start_step=phase * 1_000_000,  # no step of one phase is a step of another
                    strategy="class_balanced",
                    repair_text=config.repair_text,
                    pin_memory=run.device.type == "cuda",
                    decode_device=run.device if config.decode_on_device else None,
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
                config=config,
                generator=run.generator(phase, 3),
                teacher=teacher,
                progress=f"{self.method.name} phase {phase}",
            )
        if config.weight_align:
            log.info("new classes' weights times %.3f", align_weights(model.head, num_old))
        return {
            "train_seconds": time.perf_counter() - started,
            "pull_seconds": dataset.wait_seconds if dataset else 0.0,
            "mask_seconds": mask_seconds,
        }

    def _store(self, buffer: Buffer, phase: int, new: TokenisedSplit) -> tuple[float, float, float]:
        """Mask, select and push; returns the kept share of patches and the seconds of masking and of pushing."""
        started = time.perf_counter()
        model, memory = self.model, self.config.memory
        masked = mask_split(model, new, self.config.mask, self.run.generator(phase, 1))
        stored = what_to_store(model, new, masked, self.method.stores)
        exemplars = make_exemplars(
            model,
            new.class_ids,
            stored,
            masked.features,
            memory=memory,
            with_logits=self.config.train.stored_logits > 0,
            phase=phase,
            learner_id=self.method.slug,
            rng=np.random.default_rng([self.config.seed, phase]),
        )
        samples, records = zip(*exemplars, strict=True)
        if self.config.train.translate:
            self.translation = fit_translation(exemplar_features(model, records), masked.features[list(samples)])
        mask_seconds = time.perf_counter() - started
        started = time.perf_counter()
        # Not again after an interrupted push, which evicted by these ranks: on what is left they would be others.
        if memory.rerank and not any(buffer.query(phase=phase, limit=1)):
            changed = rerank(model, buffer, memory.selection, np.random.default_rng([self.config.seed, phase, 1]))
            log.info("re-ranked: %d exemplars have another rank", changed)
        pushed = buffer.push(records, idempotency_key=f"{self.key}-{phase}")
        push_seconds = time.perf_counter() - started
        if memory.snapshots:
            buffer.take_snapshot(f"phase-{phase}")
        if self.method.stores == "masked":
            held = zip(samples, records, pushed.exemplar_ids, strict=True)
            save_examples(self.folder / f"examples-{phase}.npz", model, new, masked, self.config.mask, held)
        return float(np.mean([record.keep_mask.mean() for record in records])), mask_seconds, push_seconds

    @contextlib.contextmanager
    def _test_head(self, phase: int) -> Iterator[None]:
        """The classifier that is tested: training's own head, or one fitted to what is there of all classes."""
        known = self._known(phase) if self.config.train.refit else None
        if known is None:
            yield
            return
        model, trained = self.model, self.model.head
        features, class_ids = known
        try:
            # No growing head, but to be tested is all it is for.
            model.head = fit_ridge(  # type: ignore[assignment]
                features.to(model.device), model.targets(class_ids), trained.num_classes
            )
            yield
        finally:
            model.head = trained

    def _known(self, phase: int) -> tuple[Tensor, NDArray[np.int64]] | None:
        """Features ``(N, F)`` and class ids ``(N,)`` of the exemplars, or of all data where the method has that; None:
        it has nothing of old classes."""
        if self.method.all_data:
            split = self.problem.train.of_classes(self.problem.seen(phase)).load()
            return self.model.features(split.tokens), split.class_ids
        if self.buffer is None:
            return None
        records = list(self.buffer.records())
        features = exemplar_features(self.model, records)
        if self.translation is not None:
            features = self.translation(features)
        return features, np.array([record.class_id for record in records])

    def _evaluate(self, phase: int) -> dict[str, Any]:
        seen, is_last = self.problem.seen(phase), phase == len(self.problem.phases) - 1
        few = self.config.data.interim_tests_per_class
        tests = {
            name: split.of_classes(seen, at_most=0 if is_last else few) for name, split in self.problem.tests.items()
        }
        views: dict[str, Any] = {}
        if self.config.train.two_views:
            views = {"masked": self.config.mask, "generator": self.run.generator(phase, 5)}
        hits = {name: correct(self.model, split, **views) for name, split in tests.items()}
        all_hits = np.concatenate(list(hits.values()))
        all_ids = np.concatenate([split.class_ids for split in tests.values()])
        is_new = np.isin(all_ids, self.problem.phases[phase])
        by_modality = {}
        # References ask their backbone several times for an answer, and have no exemplars to tell of.
        if is_last and self.method.shares_base:
            by_modality["both"] = float(all_hits.mean())
            tests = {name: split.of_classes(seen, at_most=few) for name, split in tests.items()}
            for name, show in MODALITIES.items():
                alone = [correct(self.model, split, show=show, **views) for split in tests.values()]
                by_modality[name] = float(np.concatenate(alone).mean())
        return {
            "accuracy": float(all_hits.mean()),
            "accuracy_new": float(all_hits[is_new].mean()),
            "accuracy_old": float(all_hits[~is_new].mean()) if phase else None,
            "by_phase": accuracy_by_phase(all_hits, all_ids, self.problem.phases[: phase + 1]),
            "by_class": {
                self.problem.name_of(class_id): float(all_hits[all_ids == class_id].mean())
                for class_id in seen
                if (all_ids == class_id).any()
            },
            "by_split": {name: float(values.mean()) for name, values in hits.items()},
            "by_modality": by_modality,
        }

    def save(self, phase: int, *, trained: bool, timings: dict[str, float]) -> None:
        """Where to go on: after the training of a phase (``trained``), or after all of it."""
        state = {
            "key": self.key,
            "trained_phase": phase if trained else -1,
            "timings": timings,
            "metrics": [asdict(metrics) for metrics in self.done],
        }
        checkpoint.save(self.folder / "checkpoint.pt", state | checkpoint.model_state(self.model))


def _replays(batches: Iterator[Any]) -> Iterator[Replay]:
    for batch in batches:
        yield to_replay(batch)
