"""One method's phases: train, mask, push, evaluate."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from client import Buffer, BufferStats
from client.dataset import ReplayDataset
from client.files import DamagedFileError
from learner import world
from learner.memory import mrdc
from learner.memory.contents import save_examples, save_held
from learner.memory.exemplars import (
    Stored,
    by_class,
    exemplar_features,
    make_exemplars,
    mask_split,
    to_replay,
    what_to_store,
)
from learner.memory.offered import first_offered
from learner.memory.schedule import give_scores, hardness
from learner.memory.settings import MemoryConfig
from learner.model.classifier import Classifier
from learner.model.tokenised import TokenisedSplit
from learner.run import checkpoint, machine
from learner.run.evaluate import PhaseMetrics, evaluate_phase, features_tested
from learner.run.methods import Method
from learner.run.run_mark import RunError
from learner.run.setup import MethodBuffer, Setup
from learner.run.shared import InStep, SharedClasses
from learner.training.refit import Known, Translation, fit_translation, fitted_head
from learner.training.train import train_phase
from memory_format import Record

log = logging.getLogger(__name__)

_TIMINGS = ("train_seconds", "pull_seconds", "mask_seconds")
"""What is known of a phase once it is trained."""


class MethodRun:
    """One method's way through the phases. :class:`learner.run.run.Run` drives it.

    Attributes:
        done: the metrics of the phases that have been gone through, those of an earlier run too. Where a buffer is
            shared, others may have brought more since: the last phase is then tested again.
        memory: where it stores; None: it stores nothing.

    Raises:
        RunError: the method's checkpoint cannot be read.
    """

    def __init__(self, setup: Setup, method: Method) -> None:
        self.setup = setup
        self.method = method
        self.problem = setup.problem
        self.config = method.configure(setup.config)
        self.folder = setup.out / method.slug
        self._offered = self.folder / "offered.npz"
        self.key = checkpoint.config_key(
            {
                "run": setup.config.what_counts(),
                "method": self.config.what_counts(),
                "data": setup.problem.fingerprint,
            }
        )
        self._saved = world.from_first(self._load)
        self.done = [PhaseMetrics(**line) for line in self._saved["metrics"]] if self._saved else []
        self._held = self.done[-1].exemplars if self.done else 0
        """Exemplars that the buffer held after the last phase that is done."""
        self._tested: PhaseMetrics | None = self.done.pop() if self.is_finished and self.config.memory.join else None
        """The last phase, whose exemplars have been pushed, where it is to be tested again."""
        self.memory = MethodBuffer(setup, method, self.config.memory) if method.stores != "nothing" else None
        self._buffer: Buffer | None = None
        self._shared: SharedClasses | None = None
        self._step: InStep | None = None
        self._translation: Translation | None = None
        """From features of this phase's exemplars to those of its full samples, where the test wants it."""

    def _load(self) -> dict[str, Any] | None:
        try:
            return checkpoint.load(self.folder / "checkpoint.pt", self.key)
        except DamagedFileError as error:
            raise RunError(
                f"{error}: put it back from a copy, or delete {self.folder} to begin {self.method.name} again from its "
                "start"
            ) from error

    @property
    def is_finished(self) -> bool:
        """All phases are done."""
        return len(self.done) == len(self.problem.phases)

    def look(self) -> None:
        """See that nothing of the method's buffer stands in its way.

        Raises:
            RunError: see :meth:`MethodBuffer.look`.
        """
        if self.memory and not self.is_finished:
            memory, held = self.memory, self._held
            world.from_first(lambda: memory.look(held))

    def open_buffer(self) -> None:
        """Get the method's buffer, an empty one where the method has not run before.

        Raises:
            RunError: see :meth:`MethodBuffer.look`.
        """
        if self.memory:
            memory, held, fresh = self.memory, self._held, self._saved is None

            def opened() -> None:
                memory.open(held, fresh=fresh)

            world.from_first(opened)
            self._buffer = Buffer(self.setup.client, memory.name)
            if self.config.memory.join:
                self._shared = SharedClasses(self.problem, self._buffer, self.config.backbone.patch_px)
                self._step = InStep(self._buffer, self.memory.learner_id, self.config.memory, len(self.problem.phases))
                if not self._tested:
                    self._step.begin(len(self.done))

    def phases(self, model: Classifier, base_seconds: float | None) -> Iterator[PhaseMetrics]:
        """Go through the phases that are not done, and give the metrics of each; all of them are in ``done`` too.

        Args:
            model: what the first phase begins with.
            base_seconds: what the shared base phase took; None: the method trains its own.
        """
        saved = self._saved
        if saved:
            checkpoint.restore_head(model, saved)
            model.restore_tuned(saved)
        model.tune_later(self.config.train.later_layers)
        for phase in range(len(self.done), len(self.problem.phases)):
            timings = saved["timings"] if saved and saved["trained_phase"] == phase else None
            if self._tested:
                timings = {name: getattr(self._tested, name) for name in _TIMINGS}
            elif phase == 0 and base_seconds is not None:
                timings = dict.fromkeys(_TIMINGS, 0.0) | {"train_seconds": base_seconds}
                # Before the push, as in every phase: what it pushes is known as this run's.
                self._save(model, phase, trained=True, timings=timings)
            self.done.append(self._phase(model, phase, timings))
            self._save(model, phase, trained=False, timings={})
            world.from_first(lambda: self._offered.unlink(missing_ok=True))
            yield self.done[-1]

    def _phase(self, model: Classifier, phase: int, timings: dict[str, Any] | None) -> PhaseMetrics:
        """One phase, from the end of its training on where ``timings`` of that are there already."""
        new = self.problem.train.of_classes(self.problem.phases[phase]).load()
        machine.give_back()
        if timings is None:
            timings = self._train(model, phase, new)
            machine.give_back()
            # Saved before the push: a run that dies in between must not train this phase again on a memory
            # that already holds it.
            self._save(model, phase, trained=True, timings=timings)
        keep_ratio, push_seconds = 0.0, 0.0
        if self._buffer is not None:
            keep_ratio, mask_seconds, push_seconds = self._store(model, self._buffer, phase, new)
            timings = {**timings, "mask_seconds": timings["mask_seconds"] + mask_seconds}
        if self._step is not None:
            self._step.end(phase)
        machine.give_back()
        started = time.perf_counter()
        held = self._look_back(model)
        if self._buffer is not None:
            self._close_phase(model, self._buffer, phase, held)
        with fitted_head(model, self._known(model, phase, held)):
            scores = evaluate_phase(
                model,
                self.problem,
                phase,
                interim_tests_per_class=self.config.data.interim_tests_per_class,
                # References ask their backbone several times for an answer, and have no exemplars to tell of.
                by_modality=self.method.shares_base,
                others=[] if self._shared is None else self._shared.others(model, self.problem),
            )
        stats = world.from_first(lambda: self._look_at_memory(phase))
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

    def _look_at_memory(self, phase: int) -> BufferStats | None:
        """What the buffer holds after a phase; after the last one it is written down."""
        stats = self._buffer.stats() if self._buffer else None
        if self._buffer and stats and phase == len(self.problem.phases) - 1:
            save_held(self.folder, self._buffer, stats, self._shared.to_own if self._shared else None)
        return stats

    def _train(self, model: Classifier, phase: int, new: TokenisedSplit) -> dict[str, Any]:
        model.add_classes(new)
        if self._shared:
            self._shared.meet(model)
        if self.method.all_data:
            new = self.problem.train.of_classes(self.problem.seen(phase)).load()
        started = time.perf_counter()
        keep = mask_split(model, new, self.config.mask, self.setup.generator(phase, 2)).keep_patches
        mask_seconds = time.perf_counter() - started
        machine.give_back()
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            replay, dataset = None, None
            if self._buffer is not None:
                dataset = self._dataset(
                    self._buffer,
                    phase,
                    self.config.train.num_steps(phase, len(new)),
                    self._shared.known(model) if self._shared else None,
                )
                batches = iter(dataset)
                stack.callback(batches.close)
                replay = map(functools.partial(to_replay, patch_px=self.config.backbone.patch_px), batches)
                replay = map(self._shared.replayed, replay) if self._shared else replay
            train_phase(
                model,
                new,
                keep,
                replay,
                phase=phase,
                config=self.config.train,
                generator=self.setup.generator(phase, 3),
                progress=f"{self.method.name} phase {phase}",
            )
        return {
            "train_seconds": time.perf_counter() - started,
            "pull_seconds": dataset.wait_seconds if dataset else 0.0,
            "mask_seconds": mask_seconds,
        }

    def _dataset(self, buffer: Buffer, phase: int, num_steps: int, class_ids: list[int] | None) -> ReplayDataset:
        config, device = self.config.train, self.setup.device
        return ReplayDataset(
            buffer,
            # Of the global draw, which ranks share out.
            config.replayed // world.size(),
            seed=self.config.seed,
            start_step=phase * 1_000_000,  # no step of one phase is a step of another
            # So that none is fetched, at the end, that nobody trains on.
            num_steps=num_steps,
            strategy="score_weighted" if config.draw == "forgotten" else config.draw,
            class_id=class_ids,
            repair_text=config.repair_text,
            pin_memory=device.type == "cuda",
            decode_device=device if config.decode_on_device else None,
        )

    def _store(self, model: Classifier, buffer: Buffer, phase: int, new: TokenisedSplit) -> tuple[float, float, float]:
        """Mask, select and push, unless that was done; returns the kept share of patches and the seconds of masking and
        of pushing."""
        started = time.perf_counter()
        masked = mask_split(model, new, self.config.mask, self.setup.generator(phase, 1))
        stored = what_to_store(model, new, masked, self.method.stores, self.config.memory)
        class_ids = self._shared.to_buffer(new.class_ids) if self._shared else new.class_ids
        stood_for = by_class(masked.features, class_ids)
        if self.config.memory.selection == "herding-test":
            # Of classes that are not tested, their own samples still.
            tests, tested = features_tested(model, self.problem, phase)
            stood_for |= by_class(tests, self._shared.to_buffer(tested) if self._shared else tested)
        exemplars = make_exemplars(
            model,
            class_ids,
            stored,
            stood_for,
            memory=self._at_quality(model, buffer, phase, class_ids, stored, stood_for),
            phase=phase,
            learner_id=self.memory.learner_id if self.memory else self.method.slug,
            rng=np.random.default_rng([self.config.seed, phase]),
        )
        samples, records = zip(*exemplars, strict=True)
        if self.config.train.translate:
            features = exemplar_features(model, records, self.config.backbone.patch_px)
            self._translation = fit_translation(features, masked.features[list(samples)])
        mask_seconds = time.perf_counter() - started
        keep_ratio = float(np.mean([record.keep_mask.mean() for record in records]))
        if self._tested:
            return keep_ratio, mask_seconds, self._tested.push_seconds
        started = time.perf_counter()

        def push() -> float:
            key = f"{self.key}-{phase}"
            rows, offered = first_offered(self._offered, key, samples, records)
            pushed = buffer.push(offered, idempotency_key=key, vocabulary=self.problem.vocabulary)
            push_seconds = time.perf_counter() - started
            if self.method.stores == "masked":
                held = zip(rows, offered, pushed.exemplar_ids, strict=True)
                save_examples(self.folder / f"examples-{phase}.npz", model, new, masked, self.config.mask, held)
            return push_seconds

        return keep_ratio, mask_seconds, world.from_first(push)

    def _at_quality(
        self,
        model: Classifier,
        buffer: Buffer,
        phase: int,
        class_ids: NDArray[np.int64],
        stored: Stored,
        class_features: Mapping[int, NDArray[np.floating]],
    ) -> MemoryConfig:
        """The settings with the quality of this phase's pictures."""
        memory = self.config.memory
        if memory.quality_rule == "fixed":
            return memory
        stats = world.from_first(buffer.stats)
        classes = {of.class_id for of in stats.classes} | set(class_ids.tolist())
        grown = memory.full_samples_per_class * memory.full_sample_bytes
        codec = mrdc.at_chosen_quality(
            model,
            class_ids,
            stored,
            class_features,
            memory=memory,
            share_bytes=grown or stats.budget_bytes / len(classes),
            rng=np.random.default_rng([self.config.seed, phase]),
        )
        log.info("%s phase %d: quality %d", self.method.name, phase, codec["quality"])
        return replace(memory, codec=codec)

    def _look_back(self, model: Classifier) -> tuple[list[Record], Tensor] | None:
        """What the buffer holds and its features as replay shows it; None: there is none, or nobody asks."""
        if self._buffer is None or not (self.config.train.refit or self.config.train.draw == "forgotten"):
            return None
        if self._shared:
            self._shared.meet(model)
        records = world.from_first(lambda: list(self._buffer.records() if self._buffer else ()))
        if self._shared:
            records = self._shared.known_of(model, records)
        return records, exemplar_features(model, records, self.config.backbone.patch_px)

    def _close_phase(
        self, model: Classifier, buffer: Buffer, phase: int, held: tuple[list[Record], Tensor] | None
    ) -> None:
        """Give scores, and take the phase's snapshot, which has them. Where it is there, both were done before an
        interruption: on a GPU, scores may come out as others the next time, which would make another version."""
        name, takes = f"phase-{phase}", self.config.memory.snapshots and not self._shared
        if takes and world.from_first(lambda: any(taken.name == name for taken in buffer.snapshots())):
            return
        if held and self.config.train.draw == "forgotten":
            self._give_scores(model, *held)
        if takes:
            world.from_first(lambda: buffer.take_snapshot(name))

    def _give_scores(self, model: Classifier, records: list[Record], features: Tensor) -> None:
        scores = hardness(model, features, np.array([record.class_id for record in records]))
        world.from_first(lambda: give_scores(self._buffer, records, scores) if self._buffer else None)

    def _known(self, model: Classifier, phase: int, held: tuple[list[Record], Tensor] | None) -> Known | None:
        """What a classifier for the test can be fitted to; None: training's own head is tested."""
        if not self.config.train.refit:
            return None
        if self.method.all_data:
            split = self.problem.train.of_classes(self.problem.seen(phase)).load()
            return model.features(split.tokens), split.class_ids
        if held is None:
            return None
        records, features = held
        if self._translation is not None:
            features = self._translation(features)
        if self._shared:
            return features, self._shared.class_ids_of(records)
        return features, np.array([record.class_id for record in records])

    def _save(self, model: Classifier, phase: int, *, trained: bool, timings: dict[str, Any]) -> None:
        """Where to go on: after the training of a phase (``trained``), or after all of it."""
        state = {
            "key": self.key,
            "trained_phase": phase if trained else -1,
            "timings": timings,
            "metrics": [asdict(metrics) for metrics in self.done],
        }
        state |= checkpoint.head_state(model) | model.tuned_state()
        world.from_first(lambda: checkpoint.save(self.folder / "checkpoint.pt", state))
