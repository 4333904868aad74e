"""Avalanche's iCaRL with its exemplars in the service.

``ICaRL`` asks no storage policy: a plugin of its own has tensors. Here that plugin selects and classifies as ever::

    strategy = ICaRL(feature_extractor=..., classifier=..., memory_size=200, fixed_memory=True, ...)
    stored = store_icarl(strategy, memory.create_buffer("icarl", budget_bytes=100_000))
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from client import Buffer
from client.phase_report import phase_report
from learner.adapters._exemplars import Exemplars, expect_state
from learner.adapters._pictures import Kind, Recorder, pixels_of
from memory_format import BudgetError

with warnings.catch_warnings():
    # Of a solver of quadratic programs that only two of its strategies need.
    warnings.simplefilter("ignore")
    from avalanche.training.supervised.icarl import ICaRL, _ICaRLPlugin

__all__ = ["Recorder", "StoredICaRL", "store_icarl"]

_SIZES = ("input_size", "output_size", "embedding_size")


def store_icarl(strategy: ICaRL, buffer: Buffer, **options: Any) -> StoredICaRL:
    """Let a strategy that has trained nothing yet keep its exemplars in the service.

    Args:
        options: those of :class:`StoredICaRL`.

    Raises:
        ValueError: it has exemplars already, or is no ``ICaRL``.
    """
    places = [place for place, plugin in enumerate(strategy.plugins) if type(plugin) is _ICaRLPlugin]
    if len(places) != 1 or strategy.plugins[places[0]].x_memory:
        raise ValueError("an ICaRL of Avalanche is needed that has no exemplars yet")
    stored = StoredICaRL(strategy.plugins[places[0]], buffer, **options)
    strategy.plugins[places[0]] = stored
    return stored


class StoredICaRL(_ICaRLPlugin):  # type: ignore[misc]  # Avalanche's classes are of no type that mypy knows
    """The plugin of ``ICaRL``, which herds, shrinks and classifies, over a buffer of the service.

    After each experience new exemplars are pushed in the order of herding, which is their rank, and those that the
    plugin drops are deleted. With ``class_balanced`` eviction a budget in bytes cuts each class's order from behind.
    The plugin then has what the service has, as it comes back from there, decoded in memory as Avalanche has it.

    Args:
        plugin: Avalanche's own, whose settings are taken.
        buffer: of the service. Nobody else may change it meanwhile.
        recorder: how pictures become records: codec, size of patches, masks.
        mean, std: what the benchmark's transform for tests normalises pictures by, one number a channel: samples come
            here after it. None: they are uint8, or floats in [0, 1].
        report: as in :func:`client.phase_report.phase_report`, which is called after each experience.
    """

    def __init__(
        self,
        plugin: _ICaRLPlugin,
        buffer: Buffer,
        *,
        recorder: Recorder | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(plugin.memory_size, plugin.buffer_transform, plugin.fixed_memory)
        self.recorder = Recorder() if recorder is None else recorder
        self._mean = None if mean is None else torch.tensor(mean)[:, None, None]
        self._std = None if std is None else torch.tensor(std)[:, None, None]
        self._report = report
        self._kind: Kind | None = None
        self._ids: list[dict[int, int]] = []
        """Of each class, exemplars by their place in herding's order, from 1; in the order of its rows."""
        self.exemplars: Exemplars[Tensor] = Exemplars(
            buffer, lambda batch: map(self._sample, pixels_of(batch)), lambda one: one.nbytes, cache_bytes=0
        )

    def reduce_exemplar_set(self, strategy: Any) -> None:
        """As Avalanche's. What stays is in the service when this returns, and in memory as it came back.

        Raises:
            FormatError: a sample is no picture, or a float outside [0, 1] once it is not normalised.
            BudgetError: a class has no exemplar that fits.
        """
        super().reduce_exemplar_set(strategy)
        self._remove_dropped()
        first, phase = len(self._ids), strategy.clock.train_exp_counter
        rows = [(place, row) for place in range(first, len(self.order)) for row in range(len(self.order[place]))]
        pushed = self.exemplars.push([self._record(place, row, phase) for place, row in rows])
        self._ids += [{} for _ in self.order[first:]]
        for (place, row), id_ in zip(rows, pushed.exemplar_ids.tolist(), strict=True):
            if id_ >= 0:
                self._ids[place][int(self.order[place][row])] = id_
        for place, ids in enumerate(self._ids):
            self._ids[place] = {order: id_ for order, id_ in ids.items() if id_ not in pushed.evicted}
            if not self._ids[place]:
                size = self.exemplars.buffer.info().budget_bytes
                raise BudgetError(f"class {self.y_memory[place][0]} has no exemplar that fits in {size} bytes")
            if place >= first:
                self.x_memory[place] = self._read(place).to(strategy.device)
            elif len(self._ids[place]) < len(self.order[place]):
                self.x_memory[place] = self.x_memory[place][[int(n) in self._ids[place] for n in self.order[place]]]
            self.order[place] = torch.tensor([*self._ids[place]], dtype=self.order[place].dtype)
            self.y_memory[place] = self.y_memory[place][: len(self._ids[place])]
        phase_report(self.exemplars.buffer, phase, pushed.result, self._report)

    def _remove_dropped(self) -> None:
        dropped = []
        for ids, order in zip(self._ids, self.order, strict=False):
            staying = {int(number) for number in order}
            dropped += [ids.pop(number) for number in [*ids] if number not in staying]
        self.exemplars.remove(dropped)

    def _record(self, place: int, row: int, phase: int) -> Any:
        sample = self.x_memory[place][row].cpu()
        if self._mean is not None and self._std is not None:
            # Rounding must not leave [0, 1] by a hair.
            sample = ((sample * self._std + self._mean) * 255).round().div(255)
        self._kind = Kind.of(sample) if self._kind is None else self._kind
        rank = int(self.order[place][row]) - 1
        return self.recorder.record(
            self._kind.pixels(sample), class_id=int(self.y_memory[place][0]), rank=rank, phase=phase
        )

    def _sample(self, pixels: Any) -> Tensor:
        assert self._kind is not None
        sample: Tensor = self._kind.sample(pixels)
        return sample if self._mean is None or self._std is None else sample.sub_(self._mean).div_(self._std)

    def _read(self, place: int) -> Tensor:
        return torch.stack(self.exemplars.get([*self._ids[place].values()]))

    def state_dict(self) -> dict[str, Any]:
        """The name of a snapshot in place of pictures, and means of classes. What a run needs beside it are the
        strategy's model, optimizer, loss (``old_model``, ``old_classes``) and clock."""
        return {
            "exemplars": self.exemplars.state_dict(),
            "rows": [(int(labels[0]), list(ids.items())) for labels, ids in zip(self.y_memory, self._ids, strict=True)],
            "observed_classes": list(self.observed_classes),
            "class_means": {label: mean.clone() for label, mean in self.class_means.items()},
            "sizes": [getattr(self, name) for name in _SIZES],
            "kind": None if self._kind is None else (self._kind.form, self._kind.channels),
        }

    def load_state_dict(self, state: Any) -> None:
        """Go on where a state was taken; see :meth:`Exemplars.load_state_dict`.

        Raises:
            ValueError: it is no such state.
        """
        expect_state("StoredICaRL", state, "exemplars", "rows", "observed_classes", "class_means", "sizes", "kind")
        self.exemplars.load_state_dict(state["exemplars"])
        self._kind = None if state["kind"] is None else Kind(*state["kind"])
        self._ids = [dict(ids) for _, ids in state["rows"]]
        self.order = [torch.tensor([*ids], dtype=torch.float32) for ids in self._ids]
        self.y_memory = [[label] * len(ids) for label, ids in state["rows"]]
        self.x_memory = [self._read(place) for place in range(len(self._ids))]
        self.observed_classes = list(state["observed_classes"])
        self.class_means = dict(state["class_means"])
        for name, size in zip(_SIZES, state["sizes"], strict=True):
            setattr(self, name, size)
