"""Mammoth's buffer with its examples in the service.

Mammoth is in no registry: its own class is given, and everything but the pictures stays its own::

    from utils.buffer import Buffer
    from learner.adapters.mammoth import StoredExamples

    class ServiceBuffer(StoredExamples, Buffer): ...

    model.buffer = ServiceBuffer(args.buffer_size, memory=memory.create_buffer("er", budget_bytes=1_000_000))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client import Buffer as Memory
from client.phase_report import PhaseReport, phase_report
from learner.adapters._exemplars import Exemplars, expect_state
from learner.adapters._pictures import Kind, Recorder, again, name_of, pixels_of
from learner.adapters._told import Told
from memory_format import Record

__all__ = ["Recorder", "StoredExamples"]

_CLASSES: Final = 2**32
_CHUNK: Final = 128
"""Examples that are fetched together."""
_KEPT: Final = ("logits", "true_labels")
"""Attributes that go into a record as arrays; ``labels`` and ``task_labels`` are its class and phase."""


@dataclass(frozen=True)
class SavedExamples:
    """In a checkpoint of Mammoth's: where the pictures are, in place of them."""

    state: dict[str, Any]
    """Of :class:`Exemplars`."""
    ids: tuple[int, ...]
    shape: torch.Size
    """As the tensor's would be, which Mammoth compares with the size of the buffer."""


if TYPE_CHECKING:
    _Mammoths = Any
else:
    _Mammoths = object


class StoredExamples(_Mammoths):  # type: ignore[misc]
    """To be mixed into Mammoth's ``Buffer``: ``examples`` lie in the service.

    Which example goes to which place, and which are drawn, is Mammoth's own code with its own random numbers, for each
    of its strategies but ``unlimited``. Labels, logits and the like stay its tensors, which models read and write; they
    are in the records as well. Logits that a model has written since, as X-DER does, take the place of a record's at
    the next call that draws, adds, reports or saves, or at :meth:`commit`; what torch does not count as a write, as one
    to ``logits.data``, when it reports or saves, or at :meth:`commit`. ``examples`` can be indexed as the tensor that
    it stands for.

    ``buffer_size`` counts items. Where the budget in bytes holds fewer, ``buffer_size`` becomes what it holds, and
    reservoir sampling goes on with that; who sets it to more, as Mammoth's ``fill_buffer`` does, does not get more.

    Args:
        memory: of the service. Nobody else may change it meanwhile.
        recorder: how pictures become records: codec, size of patches, masks.
        cache_bytes: the most that decoded pictures may take; as in :class:`Exemplars`.

    Raises:
        ValueError: the strategy is ``unlimited``.
    """

    _buffer_size: int
    num_seen_examples: int
    attention_maps: list[Any]

    def __init__(
        self,
        *arguments: Any,
        memory: Memory,
        recorder: Recorder | None = None,
        cache_bytes: int | None = None,
        **options: Any,
    ) -> None:
        self._fitting: int | None = None
        """Examples that fit, once more were there."""
        super().__init__(*arguments, **options)
        if self.sample_selection_strategy == "unlimited":
            raise ValueError("a budget in bytes has an end: take another strategy than 'unlimited'")
        self.recorder = Recorder() if recorder is None else recorder
        self._memory = memory
        self._cache_bytes = cache_bytes
        self._examples: _Examples | None = None
        self._told: dict[str, Told] = {}
        self._emptied: dict[str, Record] = {}
        """By their pictures, the records of a buffer that was emptied."""

    @property
    def buffer_size(self) -> int:
        """The most items."""
        return self._buffer_size

    @buffer_size.setter
    def buffer_size(self, value: int) -> None:
        self._buffer_size = value if self._fitting is None else min(value, self._fitting)

    @property
    def examples(self) -> _Examples:
        """Pictures ``(buffer_size, C, H, W)``, floats in [0, 1], by place."""
        if self._examples is None:
            raise AttributeError("examples")
        return self._examples

    @examples.setter
    def examples(self, value: Tensor | SavedExamples | _Examples) -> None:
        if isinstance(value, _Examples):
            self._examples = value
            return
        if self._examples is not None:
            self._examples.clear()
        self._told = {}
        self._examples = _Examples(self._memory, value.shape, self.device, self._cache_bytes, self._commit)
        if isinstance(value, SavedExamples):
            self._examples.load(value)
            self._memory = self._examples.exemplars.buffer
        else:
            # Those of a checkpoint of Mammoth's own buffer, say; a new buffer's are all zero. Their labels come next.
            written = value.flatten(1).any(1).nonzero()[:, 0]
            self._examples[written] = value[written]

    @examples.deleter
    def examples(self) -> None:
        # X-DER and iCaRL read all, empty the buffer, and add what they want to keep.
        self._emptied = self.examples.records()
        self.examples.clear()
        self._examples = None

    def add_data(self, *arguments: Any, **options: Any) -> None:
        """As Mammoth's. What it has put into places is in the service when this returns."""
        self._bring()
        super().add_data(*arguments, **options)
        self._bring()

    def get_data(self, *arguments: Any, **options: Any) -> Any:
        """As Mammoth's."""
        self._bring()
        return super().get_data(*arguments, **options)

    def get_balanced_data(self, *arguments: Any, **options: Any) -> Any:
        """As Mammoth's."""
        self._bring()
        return super().get_balanced_data(*arguments, **options)

    def commit(self) -> None:
        """Bring to the service what was written to ``examples``, ``logits`` and ``true_labels``.

        Raises:
            BudgetError: there is no room for it, and the buffer's policy is ``reject``.
        """
        self._bring(whatever=True)

    def _bring(self, *, whatever: bool = False) -> None:
        """As :meth:`commit`; ``whatever``: also what the tensors do not say was written, which takes a look at all
        values."""
        if self._examples is None:
            return
        self._commit()
        gone: set[int] = set()
        for name in _KEPT:
            values = getattr(self, name, None)
            if values is None or (not whatever and name in self._told and self._told[name].is_of(values)):
                continue
            now = Told.of(values)
            if name in self._told:
                places = np.flatnonzero(self._told[name].differs(now) & (self._examples.ids >= 0))
                gone |= self._examples.replace(places, {name: now.values[places]})
            self._told[name] = now
        if gone:
            self._fit()

    def _commit(self) -> None:
        examples = self.examples
        if not examples.written:
            return
        arrays = {name: Told.of(getattr(self, name)) for name in _KEPT if hasattr(self, name)}
        records = []
        for place, pixels in examples.written.items():
            label, task = (int(self._of(name, place) or 0) for name in ("labels", "task_labels"))
            said: dict[str, Any] = {
                "class_id": label % _CLASSES,
                "phase": max(0, task),
                "arrays": {name: told.values[place] for name, told in arrays.items()} or None,
            }
            before = self._emptied.get(name_of(pixels))
            records.append(self.recorder.record(pixels, **said) if before is None else again(before, **said))
        places = list(examples.written)
        examples.put(records)
        for name, told in arrays.items():
            self._told.setdefault(name, told).values[places] = told.values[places]
        self._fit()

    def _fit(self) -> None:
        """Go on with what the service has room for."""
        filled = min(self.num_seen_examples, self._buffer_size)
        held = np.flatnonzero(self.examples.ids[:filled] >= 0)
        if len(held) < filled:
            self._shrink(held)

    def _of(self, name: str, place: int) -> Any:
        return getattr(self, name)[place] if hasattr(self, name) else None

    def _shrink(self, held: NDArray[np.int64]) -> None:
        """Go on with as many places as the budget has room for."""
        size = self._buffer_size
        self.examples.take(held)
        for owner in (self, self.sample_selection_fn):
            for name, value in list(vars(owner).items()):
                if isinstance(value, Tensor) and value.ndim and len(value) == size:
                    setattr(owner, name, value[torch.from_numpy(held)])
        for told in self._told.values():
            told.values = told.values[held]
        self.attention_maps = [self.attention_maps[place] for place in held.tolist()]
        if self.num_seen_examples <= size:
            # While a buffer is filled: who does so asks how many more there is room for.
            self.num_seen_examples = len(held)
        self._fitting = self._buffer_size = self.sample_selection_fn.buffer_size = len(held)

    def report(self, phase: int, report: Callable[[str], object] | None = None) -> PhaseReport:
        """Items and bytes after a task; see :func:`client.phase_report.phase_report`."""
        self.commit()
        return phase_report(self._memory, phase, report=report)

    def serialize(self, out_device: Any = "cpu") -> dict[str, Any]:
        """As Mammoth's, with a :class:`SavedExamples` for the pictures. Like Mammoth's it does not have
        ``num_seen_examples``: :meth:`state_dict` has."""
        self.commit()
        return {
            name: self.examples.saved() if name == "examples" else getattr(self, name).to(out_device)
            for name in self.used_attributes
        }

    def state_dict(self) -> dict[str, Any]:
        """What goes on from here with the same places: the name of a snapshot in place of pictures, and copies of all
        else.

        Of a strategy with scores of its own they are not in it.
        """
        attributes = self.serialize() if self._examples is not None else {}
        saved = attributes.pop("examples", None)
        return {
            "examples": None
            if saved is None
            else {"state": saved.state, "ids": saved.ids, "shape": tuple(saved.shape)},
            "attributes": {name: values.clone() for name, values in attributes.items()},
            "num_seen_examples": self.num_seen_examples,
            "buffer_size": self._buffer_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken; see :meth:`Exemplars.load_state_dict`.

        Raises:
            ValueError: it is no such state.
        """
        expect_state("StoredExamples", state, "examples", "attributes", "num_seen_examples", "buffer_size")
        self._fitting = None if state["buffer_size"] == self._buffer_size else state["buffer_size"]
        self._buffer_size = self.sample_selection_fn.buffer_size = state["buffer_size"]
        self.num_seen_examples = state["num_seen_examples"]
        for name, value in state["attributes"].items():
            setattr(self, name, value.to(self.device))
        saved = state["examples"]
        self._examples = None
        if saved is not None:
            self.examples = SavedExamples(saved["state"], tuple(saved["ids"]), torch.Size(saved["shape"]))


class _Examples:
    """Stands for Mammoth's tensor of examples.

    Args:
        shape: ``(N, C, H, W)``.
        commit: brings what was written to the service.
    """

    def __init__(
        self, memory: Memory, shape: torch.Size, device: Any, cache_bytes: int | None, commit: Callable[[], None]
    ) -> None:
        self.shape = shape
        self.device = device
        self.ids = np.full(shape[0], -1, dtype=np.int64)
        self._kind = Kind("float", shape[1])
        self._commit = commit
        self.written: dict[int, NDArray[np.uint8]] = {}
        """By place, what is not in the service yet."""
        stored = Kind("uint8", shape[1])
        self.exemplars: Exemplars[Tensor] = Exemplars(
            memory, lambda batch: map(stored.sample, pixels_of(batch)), lambda one: one.nbytes, cache_bytes=cache_bytes
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, index: Any, value: Tensor) -> None:
        places = np.atleast_1d(np.arange(len(self))[_index(index)])
        for place, one in zip(places.tolist(), value[None] if value.ndim == 3 else value, strict=True):
            self.written[place] = self._kind.pixels(one.float())

    def __getitem__(self, index: Any) -> Tensor:
        self._commit()
        places = np.arange(len(self))[_index(index)]
        ids = self.ids[np.atleast_1d(places)].tolist()
        found = iter(self.exemplars.get([id_ for id_ in ids if id_ >= 0]))
        # What was never written is zero, as in the tensor.
        rows = [next(found) if id_ >= 0 else torch.zeros(self.shape[1:], dtype=torch.uint8) for id_ in ids]
        pictures = torch.stack(rows).float().div_(255) if rows else torch.zeros(0, *self.shape[1:])
        return (pictures if places.ndim else pictures[0]).to(self.device)

    def to(self, device: Any) -> _Examples:
        """Give pictures to that device from now on."""
        self.device = device
        return self

    def cpu(self) -> _Examples:
        return self.to("cpu")

    def records(self) -> dict[str, Record]:
        """What the service holds, by the names of the pictures as they are read."""
        found: dict[str, Record] = {}
        ids = self.ids[self.ids >= 0].tolist()
        for first in range(0, len(ids), _CHUNK):
            part = ids[first : first + _CHUNK]
            records = self.exemplars.buffer.fetch(part, pixels=False).records
            pictures = (self._kind.pixels(one.float().div_(255)) for one in self.exemplars.get(part))
            found |= zip(map(name_of, pictures), records, strict=True)
        return found

    def put(self, records: list[Record]) -> None:
        """Store what was written, as these records, in place of what is there. Others may have to go: their ids are -1
        then."""
        places = list(self.written)
        old = self.ids[places]
        self.exemplars.remove(old[old >= 0].tolist())
        self.ids[places] = -1
        pushed = self.exemplars.push(records)
        self.written = {}
        self.ids[places] = pushed.exemplar_ids
        self.ids[np.isin(self.ids, list(pushed.evicted))] = -1

    def replace(self, places: NDArray[np.int64], arrays: dict[str, NDArray[np.float32]]) -> frozenset[int]:
        """Give the examples at these places other arrays. Returns the ids of those that are gone for it."""
        if not len(places):
            return frozenset()
        gone = self.exemplars.replace(self.ids[places].tolist(), arrays)
        self.ids[np.isin(self.ids, list(gone))] = -1
        return gone

    def take(self, places: NDArray[np.int64]) -> None:
        """Keep these places alone."""
        self.ids = self.ids[places]
        self.shape = torch.Size((len(places), *self.shape[1:]))

    def clear(self) -> None:
        """Delete them all."""
        self.exemplars.remove(self.ids[self.ids >= 0].tolist())
        self.ids[:] = -1

    def saved(self) -> SavedExamples:
        self._commit()
        return SavedExamples(self.exemplars.state_dict(), tuple(self.ids.tolist()), self.shape)

    def load(self, saved: SavedExamples) -> None:
        self.exemplars.load_state_dict(saved.state)
        self.ids = np.array(saved.ids, dtype=np.int64)


def _index(index: Any) -> Any:
    return index.cpu().numpy() if isinstance(index, Tensor) else index
