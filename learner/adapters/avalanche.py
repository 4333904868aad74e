"""Avalanche's rehearsal buffers with their exemplars in the service.

Any storage policy of Avalanche decides what stays, as it ever did; what it keeps lies in a buffer of the service::

    stored = StoredExemplars(ClassBalancedBuffer(200), memory.create_buffer("run", budget_bytes=100_000), like=dataset)
    plugin = ReplayPlugin(200, storage_policy=stored)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import Dataset

from client import Buffer
from client.phase_report import phase_report
from learner.adapters._exemplars import Exemplars, expect_state
from learner.adapters._pictures import Kind, Recorder, pixels_of

with warnings.catch_warnings():
    # Of a solver of quadratic programs that only two of its strategies need.
    warnings.simplefilter("ignore")
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.training import storage_policy
    from avalanche.training.storage_policy import (
        ExemplarsBuffer,
        FeatureBasedExemplarsSelectionStrategy,
    )

__all__ = ["LearnersOrder", "Recorder", "StoredExemplars"]

_TAG: Final = "exemplar_id"
_DATASETS: Final = ("_buffer", "buffer_groups")
_PLAIN: Final = (int, float, str, set, list, tuple, torch.Tensor, type(None))


@dataclass(frozen=True)
class _Row:
    """What is known of an exemplar beside its picture."""

    target: Any
    """As the data set under all transforms has it."""
    attributes: dict[str, Any]
    """Avalanche's, by name: ``targets`` and ``targets_task_labels`` at least."""


class StoredExemplars(ExemplarsBuffer):  # type: ignore[misc]  # Avalanche's classes are of no type that mypy knows
    """A storage policy whose exemplars lie in the service.

    ``policy`` chooses among what it has and what is new, with its own random numbers. What it drops is deleted, what is
    new is pushed, and its data sets are replaced by ones that read from the service, so that nothing of an experience
    stays in memory but what is decoded. Its order is the rank: with ``class_balanced`` eviction a budget in bytes cuts
    each class's order from behind, as Avalanche's ``resize`` does. What the budget does not hold leaves the policy too.

    Args:
        policy: of Avalanche: ``ReservoirSamplingBuffer``, ``ClassBalancedBuffer``, ``ExperienceBalancedBuffer``,
            ``ParametricBuffer``, or one like them. Empty; its ``max_size`` is the most *items* that are kept.
        buffer: of the service; its budget is the most *bytes*. Nobody else may change it meanwhile.
        like: a data set of the benchmark, such as ``benchmark.train_stream[0].dataset``: exemplars come in pictures,
            transforms and attributes as its samples do.
        recorder: how pictures become records: codec, size of patches, masks.
        cache_bytes: the most that decoded pictures may take; as in :class:`Exemplars`.
        report: as in :func:`client.phase_report.phase_report`, which is called after each experience.

    Raises:
        ValueError: the policy is not empty.
        FormatError: the samples of ``like`` are no pictures.
    """

    def __init__(
        self,
        policy: ExemplarsBuffer,
        buffer: Buffer,
        *,
        like: AvalancheDataset,
        recorder: Recorder | None = None,
        cache_bytes: int | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        if len(policy.buffer):
            raise ValueError("the policy has exemplars already: give one that is empty")
        self.policy = policy
        self.recorder = Recorder() if recorder is None else recorder
        self._like = like
        self._kind = kind = Kind.of(_untransformed(like)[0][0])
        self._report = report
        self._phase = 0
        self._rows: dict[int, _Row] = {}
        self._ranks: dict[int, int] = {}
        self.exemplars: Exemplars[Any] = Exemplars(
            buffer, lambda batch: map(kind.sample, pixels_of(batch)), _size_of, cache_bytes=cache_bytes
        )

    @property
    def max_size(self) -> int:
        """The most items."""
        return int(self.policy.max_size)

    @property
    def buffer(self) -> AvalancheDataset:
        """All exemplars as a data set with ``targets``. Pictures that are not at hand are fetched when asked for."""
        return self.policy.buffer

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Choose among the exemplars and an experience's samples.

        Raises:
            FormatError: a sample is no picture of the kind of the others.
            BudgetError: there is no room, and the buffer's policy is ``reject``. The policy then has what is left of
                before.
        """
        tags = DataAttribute([-1 - place for place in range(len(exp.dataset))], _TAG)
        self.policy.post_adapt(agent_state, _Tagged(exp, exp.dataset.update_data_attribute(_TAG, tags)))
        self._store(exp.dataset)

    def update(self, strategy: Any, **_: Any) -> None:
        """What ``ReplayPlugin`` of Avalanche 0.6 calls."""
        self.post_adapt(strategy, strategy.experience)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep at most so many items from now on."""
        self.policy.resize(strategy, new_size)
        self._store(None)

    def _store(self, new: AvalancheDataset | None) -> None:
        """Make the service hold what the policy has chosen, and the policy what the service holds."""
        leaves = list(_leaves(self.policy))
        chosen = [_tags(leaf.buffer) for leaf in leaves]
        ids: dict[int, int] = {}
        try:
            staying = {tag for tags in chosen for tag in tags if tag >= 0}
            leaving = self._rows.keys() - staying
            self.exemplars.remove(leaving)
            self._forget(leaving)
            ranks = {tag: rank for tags in chosen for rank, tag in enumerate(tags)}
            moved = [id_ for id_ in staying if self._ranks[id_] != ranks[id_]]
            if moved:
                self.exemplars.buffer.update_scores(moved, ranks=[ranks[id_] for id_ in moved])
                self._ranks |= {id_: ranks[id_] for id_ in moved}
            ids = self._push(new, [tag for tags in chosen for tag in tags if tag < 0], ranks)
        finally:
            # Also where something has failed: later, a tag would name a sample of another experience.
            for leaf, tags in zip(leaves, chosen, strict=True):
                kept = [ids.get(tag, tag) for tag in tags]
                places = [place for place, id_ in enumerate(kept) if id_ in self._rows]
                leaf.buffer = self._dataset([kept[place] for place in places])
                if len(places) < len(kept) and hasattr(leaf, "_buffer_weights"):
                    leaf._buffer_weights = leaf._buffer_weights[places]

    def _push(self, new: AvalancheDataset | None, tags: Sequence[int], ranks: Mapping[int, int]) -> dict[int, int]:
        """Store new samples; tag -> id, of those that are kept."""
        if new is None:
            return {}
        raw = _untransformed(new)
        rows, records = [], []
        for tag in tags:
            place = -1 - tag
            picture, target, *_ = raw[place]
            attributes = {name: _plain(values[place]) for name, values in new._data_attributes.items()}
            rows.append(_Row(_plain(target), attributes))
            pixels = self._kind.pixels(picture)
            class_id = int(attributes["targets"])
            records.append(self.recorder.record(pixels, class_id=class_id, rank=ranks[tag], phase=self._phase))
        pushed = self.exemplars.push(records)
        self._forget(pushed.evicted)
        found = {tag: id_ for tag, id_ in zip(tags, pushed.exemplar_ids.tolist(), strict=True) if id_ >= 0}
        of = dict(zip(tags, rows, strict=True))
        self._rows |= {id_: of[tag] for tag, id_ in found.items()}
        self._ranks |= {id_: ranks[tag] for tag, id_ in found.items()}
        phase_report(self.exemplars.buffer, self._phase, pushed.result, self._report)
        self._phase += 1
        return found

    def _forget(self, exemplar_ids: Iterable[int]) -> None:
        for id_ in exemplar_ids:
            self._rows.pop(id_, None)
            self._ranks.pop(id_, None)

    def _dataset(self, exemplar_ids: Sequence[int]) -> AvalancheDataset:
        """Exemplars as a data set of the kind and with the transforms that the benchmark's have."""
        rows = [self._rows[id_] for id_ in exemplar_ids]
        pictures = _Pictures(self.exemplars, exemplar_ids, [row.target for row in rows])
        attributes = [
            DataAttribute([row.attributes[name] for row in rows], name, use_in_getitem=known.use_in_getitem)
            for name, known in self._like._data_attributes.items()
        ]
        attributes.append(DataAttribute(list(exemplar_ids), _TAG))
        found: Any = pictures
        for groups in _transforms(self._like):
            found = type(self._like)(
                [found], data_attributes=attributes, transform_groups=groups, collate_fn=self._like.collate_fn
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """The policy's state in plain values and tensors, and the name of a snapshot in place of the pictures."""
        return {
            "exemplars": self.exemplars.state_dict(),
            "policy": _state_of(self.policy),
            "rows": [(id_, self._ranks[id_], row.target, row.attributes) for id_, row in self._rows.items()],
            "phase": self._phase,
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on where a state was taken; see :meth:`Exemplars.load_state_dict`.

        Raises:
            ValueError: it is no such state, or of a policy of another class.
        """
        expect_state("StoredExemplars", state, "exemplars", "policy", "rows", "phase")
        if state["policy"]["type"] != type(self.policy).__name__:
            raise ValueError(f"the state is of a {state['policy']['type']}, this is a {type(self.policy).__name__}")
        self.exemplars.load_state_dict(state["exemplars"])
        self._rows = {id_: _Row(target, dict(attributes)) for id_, _, target, attributes in state["rows"]}
        self._ranks = {id_: rank for id_, rank, *_ in state["rows"]}
        self._phase = state["phase"]
        self._restore(self.policy, state["policy"])

    def _restore(self, policy: ExemplarsBuffer, state: Mapping[str, Any]) -> None:
        for name, value in state["values"].items():
            is_set = isinstance(getattr(policy, name, None), set)
            setattr(policy, name, set(value) if is_set else copy(value))
        if "groups" not in state:
            policy.buffer = self._dataset(state["exemplar_ids"])
            return
        policy.buffer_groups = {}
        for key, part in state["groups"]:
            group = object.__new__(getattr(storage_policy, part["type"]))
            # What groups share with the policy, and no state has: how it selects.
            vars(group).update({name: value for name, value in vars(policy).items() if name == "selection_strategy"})
            self._restore(group, part)
            policy.buffer_groups[key] = group


class LearnersOrder(FeatureBasedExemplarsSelectionStrategy):  # type: ignore[misc]
    """The learner's own orders of selection, for ``ParametricBuffer(selection_strategy=...)``.

    Args:
        model, layer_name: as Avalanche's ``HerdingSelectionStrategy`` has them: whose output are the features.
        selection: of :func:`learner.memory.selection.selection_order`.
        seed: for those that draw.
    """

    def __init__(
        self, model: torch.nn.Module, layer_name: str, selection: str = "herding-mean", *, seed: int = 0
    ) -> None:
        super().__init__(model, layer_name)
        self._selection = selection
        self._rng = np.random.default_rng(seed)

    def make_sorted_indices_from_features(self, features: torch.Tensor) -> list[int]:
        """Places of ``(N, ...)`` features, first to keep first."""
        from learner.memory.selection import selection_order

        flat = features.flatten(1).cpu().numpy()
        order = selection_order(flat, flat, self._selection, self._rng)  # type: ignore[arg-type]
        return [int(place) for place in order]


class _Pictures(Dataset[tuple[Any, Any]]):
    """Exemplars by place: picture and target, before any transform."""

    def __init__(self, exemplars: Exemplars[Any], exemplar_ids: Sequence[int], targets: Sequence[Any]) -> None:
        self._exemplars = exemplars
        self._ids = list(exemplar_ids)
        self._targets = targets

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: int) -> tuple[Any, Any]:
        (found,) = self._exemplars.get([self._ids[place]], ahead=self._ids)
        # A transform may write to what it is given.
        return (found.clone() if isinstance(found, torch.Tensor) else found.copy()), self._targets[place]


class _Tagged:
    """An experience with another data set."""

    def __init__(self, exp: Any, dataset: AvalancheDataset) -> None:
        self._exp = exp
        self.dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exp, name)


def _leaves(policy: ExemplarsBuffer) -> Iterator[ExemplarsBuffer]:
    """The buffers that have data sets of their own."""
    if hasattr(policy, "buffer_groups"):
        for group in policy.buffer_groups.values():
            yield from _leaves(group)
    else:
        yield policy


def _tags(dataset: AvalancheDataset) -> list[int]:
    return [int(tag) for tag in getattr(dataset, _TAG)] if len(dataset) else []


def _untransformed(dataset: AvalancheDataset) -> Any:
    return dataset.remove_current_transform_group()._flat_data


def _transforms(dataset: AvalancheDataset) -> list[Any]:
    """The groups of transforms around a data set, the innermost first."""
    found, level = [], dataset._flat_data
    while hasattr(level, "_transform_groups"):
        found.append(copy(level._transform_groups))
        level = level._datasets[0]
    return found[::-1]


def _size_of(sample: Any) -> int:
    if isinstance(sample, torch.Tensor | np.ndarray):
        return int(sample.nbytes)
    return int(sample.width * sample.height * (1 if sample.mode == "L" else 4))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor | np.generic) else value


def _state_of(policy: ExemplarsBuffer) -> dict[str, Any]:
    values = {name: value for name, value in vars(policy).items() if name not in _DATASETS}
    state: dict[str, Any] = {
        "type": type(policy).__name__,
        "values": {
            name: sorted(value) if isinstance(value, set) else value
            for name, value in values.items()
            if isinstance(value, _PLAIN)
        },
    }
    if hasattr(policy, "buffer_groups"):
        state["groups"] = [(key, _state_of(group)) for key, group in policy.buffer_groups.items()]
    else:
        state["exemplar_ids"] = _tags(policy.buffer)
    return state
