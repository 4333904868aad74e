"""Avalanche's rehearsal buffers with their exemplars in the service.

Any storage policy of Avalanche decides what stays, as it ever did; what it keeps lies in a buffer of the service::

    stored = StoredExemplars(ClassBalancedBuffer(200), memory.create_buffer("run", budget_bytes=100_000), like=dataset)
    plugin = ReplayPlugin(200, storage_policy=stored)

That of DER and DER++, ``ClassBalancedBufferWithLogits``, too: ``DER(...).storage_policy = stored``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from client import Buffer
from client.phase_report import phase_report
from learner.adapters._avalanche_data import (
    TAG,
    Pictures,
    With,
    kept,
    leaves,
    plain,
    tags_of,
    transforms_of,
    untransformed,
)
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

_DATASETS: Final = ("_buffer", "buffer_groups")
_PLAIN: Final = (int, float, str, set, list, tuple, torch.Tensor, type(None))


@dataclass(frozen=True)
class _Row:
    """What is known of an exemplar beside its picture."""

    target: Any
    """As the data set under all transforms has it."""
    attributes: dict[str, Any]
    """Avalanche's, by name: ``targets`` and ``targets_task_labels`` at least. Tensors are the record's arrays."""

    @property
    def arrays(self) -> dict[str, torch.Tensor]:
        """What the record has of them, beside its class."""
        return {name: value for name, value in self.attributes.items() if isinstance(value, torch.Tensor)}

    @property
    def plain(self) -> dict[str, Any]:
        """The others."""
        return {name: value for name, value in self.attributes.items() if not isinstance(value, torch.Tensor)}


class StoredExemplars(ExemplarsBuffer):  # type: ignore[misc]  # Avalanche's classes are of no type that mypy knows
    """A storage policy whose exemplars lie in the service.

    ``policy`` chooses among what it has and what is new, with its own random numbers. What it drops is deleted, what is
    new is pushed, and its data sets are replaced by ones that read from the service, so that nothing of an experience
    stays in memory but what is decoded. Its order is the rank: with ``class_balanced`` eviction a budget in bytes cuts
    each class's order from behind, as Avalanche's ``resize`` does. What the budget does not hold leaves the policy too.

    Attributes that are vectors, such as the logits that DER's policy adds, are float32 arrays of the records. Where a
    policy gives an exemplar another one, that takes its place.

    Args:
        policy: of Avalanche: ``ReservoirSamplingBuffer``, ``ClassBalancedBuffer``, ``ExperienceBalancedBuffer``,
            ``ParametricBuffer``, ``ClassBalancedBufferWithLogits``, or one like them. Empty; its ``max_size`` is the
            most *items* that are kept.
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
        self._kind = kind = Kind.of(untransformed(like)[0][0])
        self._report = report
        self._phase = 0
        self._rows: dict[int, _Row] = {}
        self._ranks: dict[int, int] = {}
        self._shown = {name: values.use_in_getitem for name, values in like._data_attributes.items()}
        """Attributes, in their order, and whether samples end in them: the benchmark's, and the policy's own."""
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

        Args:
            agent_state: the strategy; None will do for policies that ask nothing of it.

        Raises:
            FormatError: a sample is no picture of the kind of the others, or a vector is none of floats.
            BudgetError: there is no room, and the buffer's policy is ``reject``. The policy then has what is left of
                before.
        """
        self._adapt(agent_state, exp)

    def update(self, strategy: Any, **options: Any) -> None:
        """What ``ReplayPlugin`` and ``DER`` of Avalanche 0.6 call."""
        self._adapt(strategy, strategy.experience, **options)

    def _adapt(self, agent_state: Any, exp: Any, **options: Any) -> None:
        tags = DataAttribute([-1 - place for place in range(len(exp.dataset))], TAG)
        tagged = With(exp, dataset=exp.dataset.update_data_attribute(TAG, tags))
        if type(self.policy).post_adapt is ExemplarsBuffer.post_adapt:
            # DER's has the older method alone.
            self.policy.update(With(agent_state, experience=tagged), **options)
        else:
            self.policy.post_adapt(agent_state, tagged)
        self._store(exp.dataset)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep at most so many items from now on."""
        self.policy.resize(strategy, new_size)
        self._store(None)

    def _store(self, new: AvalancheDataset | None) -> None:
        """Make the service hold what the policy has chosen, and the policy what the service holds."""
        groups = list(leaves(self.policy))
        chosen = [tags_of(group.buffer) for group in groups]
        ids: dict[int, int] = {}
        try:
            attributes = {tag: values for group in groups for tag, values in self._attributes_of(group.buffer)}
            staying = {tag for tags in chosen for tag in tags if tag >= 0}
            leaving = self._rows.keys() - staying
            self.exemplars.remove(leaving)
            self._forget(leaving)
            ranks = {tag: rank for tags in chosen for rank, tag in enumerate(tags)}
            moved = [id_ for id_ in staying if self._ranks[id_] != ranks[id_]]
            if moved:
                self.exemplars.buffer.update_scores(moved, ranks=[ranks[id_] for id_ in moved])
                self._ranks |= {id_: ranks[id_] for id_ in moved}
            self._rewrite({tag: values for tag, values in attributes.items() if tag >= 0})
            ids = self._push(new, {tag: values for tag, values in attributes.items() if tag < 0}, ranks)
        finally:
            # Also where something has failed: later, a tag would name a sample of another experience.
            for group, tags in zip(groups, chosen, strict=True):
                there = [ids.get(tag, tag) for tag in tags]
                places = [place for place, id_ in enumerate(there) if id_ in self._rows]
                group.buffer = self._dataset([there[place] for place in places])
                if len(places) < len(there) and hasattr(group, "_buffer_weights"):
                    group._buffer_weights = group._buffer_weights[places]

    def _attributes_of(self, dataset: AvalancheDataset) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of each sample that a policy has chosen, tag and attributes."""
        known = {name: values for name, values in dataset._data_attributes.items() if name != TAG}
        self._shown |= {name: values.use_in_getitem for name, values in known.items() if name not in self._shown}
        for place, tag in enumerate(tags_of(dataset)):
            yield tag, {name: kept(name, values[place]) for name, values in known.items()}

    def _rewrite(self, attributes: Mapping[int, Mapping[str, Any]]) -> None:
        """Bring to the service what the policy has given to exemplars of before, by id, in place of what they had."""
        anew: dict[tuple[str, torch.Size], dict[int, torch.Tensor]] = {}
        for id_, values in attributes.items():
            for name, before in self._rows[id_].arrays.items():
                if name in values and not torch.equal(values[name], before):
                    anew.setdefault((name, values[name].shape), {})[id_] = values[name]
        for (name, _), of in anew.items():
            held = [id_ for id_ in of if id_ in self._rows]
            if held:
                self._forget(self.exemplars.replace(held, {name: np.stack([of[id_].numpy() for id_ in held])}))
        for id_ in self._rows.keys() & attributes.keys():
            self._rows[id_].attributes.update(attributes[id_])

    def _push(
        self, new: AvalancheDataset | None, attributes: Mapping[int, dict[str, Any]], ranks: Mapping[int, int]
    ) -> dict[int, int]:
        """Store new samples, whose attributes are given by tag; tag -> id, of those that are kept."""
        if new is None:
            return {}
        raw = untransformed(new)
        rows, records = {}, []
        for tag, values in attributes.items():
            picture, target, *_ = raw[-1 - tag]
            row = rows[tag] = _Row(plain(target), values)
            said = {"class_id": int(values["targets"]), "rank": ranks[tag], "phase": self._phase}
            arrays = {name: value.numpy() for name, value in row.arrays.items()}
            records.append(self.recorder.record(self._kind.pixels(picture), arrays=arrays or None, **said))
        pushed = self.exemplars.push(records)
        self._forget(pushed.evicted)
        found = {tag: id_ for tag, id_ in zip(rows, pushed.exemplar_ids.tolist(), strict=True) if id_ >= 0}
        self._rows |= {id_: rows[tag] for tag, id_ in found.items()}
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
        pictures = Pictures(self.exemplars, exemplar_ids, [row.target for row in rows])
        attributes = [
            DataAttribute([row.attributes[name] for row in rows], name, use_in_getitem=shown)
            for name, shown in self._shown.items()
            # As Avalanche does it: what some lack, none has.
            if all(name in row.attributes for row in rows)
        ]
        attributes.append(DataAttribute(list(exemplar_ids), TAG))
        found: Any = pictures
        for groups in transforms_of(self._like):
            found = type(self._like)(
                [found], data_attributes=attributes, transform_groups=groups, collate_fn=self._like.collate_fn
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """The policy's state in plain values and tensors, and the name of a snapshot in place of the pictures and
        vectors."""
        rows = [(id_, self._ranks[id_], row.target, row.plain) for id_, row in self._rows.items()]
        return {
            "exemplars": self.exemplars.state_dict(),
            "policy": _state_of(self.policy),
            "rows": rows,
            "shown": dict(self._shown),
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
        self._shown |= state.get("shown", {})
        self._phase = state["phase"]
        lacking = [id_ for id_, row in self._rows.items() if not self._shown.keys() <= row.attributes.keys()]
        for id_, arrays in self.exemplars.arrays(lacking):
            self._rows[id_].attributes.update({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
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


def _size_of(sample: Any) -> int:
    if isinstance(sample, torch.Tensor | np.ndarray):
        return int(sample.nbytes)
    return int(sample.width * sample.height * (1 if sample.mode == "L" else 4))


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
        state["exemplar_ids"] = tags_of(policy.buffer)
    return state
