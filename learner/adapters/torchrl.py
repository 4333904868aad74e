"""torchrl's replay buffer with its transitions in the service.

A slot is an index, and the exemplar in it is its generation, which is never given twice::

    storage = StoredStorage(10_000, memory.create_buffer("dqn", budget_bytes=50_000_000, eviction="reject"))
    replay = StoredReplayBuffer(storage=storage, sampler=PrioritizedSampler(10_000, 0.7, 0.5), batch_size=256)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import RoundRobinWriter, Storage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.checkpointers import StorageCheckpointerBase

from client import Buffer, ReplayBatch
from client.files import write_atomically
from learner.adapters._exemplars import Exemplars, expect_state
from memory_format import BudgetError, FormatError, PatchCodec, Record, WebPLossless, image_to_patches, make_record

__all__ = ["StoredReplayBuffer", "StoredStorage", "StoredWriter"]

Key: TypeAlias = str | tuple[str, ...]

_CHUNK: Final = 256
"""Transitions that are fetched together."""
_ARRAYS: Final = (torch.float16, torch.float32)
_LISTS: Final = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float64)


class _Checkpointer(StorageCheckpointerBase):  # type: ignore[misc]
    """The state as a file: a name and ids in place of transitions."""

    def dumps(self, storage: StoredStorage, path: Any) -> None:
        # Names and whole numbers, all of which JSON has. torchrl's own storages dump by tensordict 0.14.3, which makes
        # None of a NaN that is no tensor (findings/tensordict_memmap_not_finite.sh).
        write_atomically(Path(path) / "exemplars.json", json.dumps(storage.state_dict()).encode())

    def loads(self, storage: StoredStorage, path: Any) -> None:
        storage.load_state_dict(json.loads((Path(path) / "exemplars.json").read_text()))


class StoredStorage(Storage):  # type: ignore[misc]
    """Transitions in slots. Each is a record: its pictures are coded as one, numbers are kept as they are.

    Writers and samplers of torchrl work with it as with a ``LazyTensorStorage``. Decoded
    transitions are kept, as many bytes as there.

    Args:
        max_size: slots.
        buffer: of the service, with ``eviction="reject"``: torchrl has no slots that are empty. Nobody else may change
            it meanwhile.
        pictures: keys of uint8 tensors ``(..., H, W)`` of one height and width: frames, and stacks of them.
        label: key of a whole number that becomes the record's class; None = all are of class 0.
        codec: of the pictures. The default gives every pixel again.
        patch_px: side of a patch; sides that are no multiple are continued with zeros, which are cut off again.

    Raises:
        ValueError: the buffer evicts.
    """

    _default_checkpointer = _Checkpointer

    def __init__(
        self,
        max_size: int,
        buffer: Buffer,
        *,
        pictures: Sequence[Key] = ("pixels",),
        label: Key | None = None,
        codec: PatchCodec | None = None,
        patch_px: int = 16,
    ) -> None:
        super().__init__(max_size)
        if buffer.info().eviction != "reject":
            raise ValueError(
                f"buffer {buffer.name!r} evicts, and slots cannot be empty: make it with eviction='reject'"
            )
        self.device = torch.device("cpu")
        self.ids = torch.full((self.max_size,), -1, dtype=torch.int64)
        """``(max_size,)``: the exemplar of each slot; -1 = none."""
        self._pictures = [_key(key) for key in pictures]
        self._label = None if label is None else _key(label)
        self._codec: PatchCodec = WebPLossless() if codec is None else codec
        self._patch_px = patch_px
        self._len = 0
        self._fields: dict[str, tuple[str, list[int]]] = {}
        self._decoded: TensorDictBase | None = None
        self._at_hand = torch.zeros(self.max_size, dtype=torch.bool)
        self.exemplars: Exemplars[TensorDictBase] = Exemplars(buffer, self._read, lambda _: 0, cache_bytes=0)

    def __len__(self) -> int:
        return self._len

    def set(self, cursor: Any, data: TensorDictBase, *, set_cursor: bool = True) -> None:
        """Store transitions in slots.

        Raises:
            FormatError: a value is of a kind that a record cannot have, or another one than before.
            BudgetError: they do not fit. What was in the slots is still there.
        """
        if set_cursor:
            self._set_last_cursor(cursor)
        slots = torch.arange(self.max_size)[cursor].reshape(-1)
        rows = data.reshape(-1) if data.ndim else data[None]
        # Of a slot that comes twice the last one counts.
        last = {slot: row for row, slot in enumerate(slots.tolist())}
        slots, rows = torch.tensor([*last]), rows[torch.tensor([*last.values()])]
        records = [self._record(row) for row in rows.cpu().unbind(0)]
        old = self.ids[slots]
        leaving = old[old >= 0].tolist()
        try:
            pushed = self.exemplars.push(records)
        except BudgetError:
            now = self.exemplars.buffer.info()
            room = now.budget_bytes - now.bytes_used + self._charges(leaving)
            if not leaving or sum(record.charge for record in records) > room:
                raise
            self.exemplars.remove(leaving)
            self.ids[slots], leaving = -1, []
            pushed = self.exemplars.push(records)
        self.exemplars.remove(leaving)
        self.ids[slots] = torch.from_numpy(pushed.exemplar_ids)
        self._decode(slots, ReplayBatch.from_records(records))
        if set_cursor:
            self._len = max(self._len, int(slots.max()) + 1)
        self._bump_mutation_revision()

    def _charges(self, exemplar_ids: list[int]) -> int:
        """Bytes of the budget that exemplars take."""
        parts = (exemplar_ids[first : first + _CHUNK] for first in range(0, len(exemplar_ids), _CHUNK))
        batches = (self.exemplars.buffer.fetch(part, pixels=False) for part in parts)
        return sum(record.charge for batch in batches for record in batch.records)

    def get(self, index: Any) -> TensorDictBase:
        """Transitions by slot; those that are not decoded yet are fetched.

        Raises:
            RuntimeError: nothing was stored yet.
        """
        if not self._fields:
            raise RuntimeError("the storage is empty")
        if isinstance(index, slice):
            index = torch.arange(self._len)[index]
        if not bool(self._at_hand[index].all()):
            slots = torch.arange(self.max_size)[index].reshape(-1).unique()
            slots = slots[~self._at_hand[slots]]
            for part in slots.split(_CHUNK):
                self._decode(part, self.exemplars.buffer.fetch(self.ids[part].numpy()))
        assert self._decoded is not None
        return self._decoded[index]

    def _decode(self, slots: Tensor, batch: ReplayBatch) -> None:
        rows = torch.stack(self._read(batch))
        if self._decoded is None:
            self._decoded = rows[0].expand(self.max_size).clone()
        self._decoded[slots] = rows
        self._at_hand[slots] = True

    def contains(self, item: Any) -> Any:
        """Whether a slot, or each of several, has a transition."""
        slots = torch.as_tensor(item)
        slots = torch.where(slots < 0, slots + self._len, slots)
        found = (slots >= 0) & (slots < self._len)
        return found if found.ndim else bool(found)

    def _empty(self) -> None:
        self.exemplars.remove(self.ids[self.ids >= 0].tolist())
        self.ids[:], self._at_hand[:], self._len = -1, False, 0
        self._bump_mutation_revision()

    def state_dict(self) -> dict[str, Any]:
        """In plain values: the name of a snapshot, and which exemplar is in which slot."""
        return {
            "exemplars": self.exemplars.state_dict(),
            "ids": self.ids[: self._len].tolist(),
            "fields": {name: [kind, list(shape)] for name, (kind, shape) in self._fields.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken; see :meth:`Exemplars.load_state_dict`.

        Raises:
            ValueError: it is no such state, or of more slots.
        """
        what = f"a StoredStorage of {self.max_size} slots"
        expect_state(what, state, "exemplars", "ids", "fields")
        if len(state["ids"]) > self.max_size:
            raise ValueError(f"this is no state of {what}, but of {len(state['ids'])}")
        self.exemplars.load_state_dict(state["exemplars"])
        self._len = len(state["ids"])
        self.ids[:] = -1
        self.ids[: self._len] = torch.tensor(state["ids"], dtype=torch.int64)
        self._fields = {name: (kind, list(shape)) for name, (kind, shape) in state["fields"].items()}
        self._at_hand[:] = False
        self._bump_mutation_revision()

    def _record(self, row: TensorDictBase) -> Record:
        values = {_name(key): value for key, value in row.items(include_nested=True, leaves_only=True)}
        fields = {name: (str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in values.items()}
        if fields != (self._fields or fields):
            raise FormatError(f"the storage has {self._fields}, this transition {fields}")
        if missing := [name for name in self._pictures if name not in values or values[name].dtype != torch.uint8]:
            raise FormatError(f"{missing[0]!r} is no uint8 picture of the transition, whose fields are {fields}")
        numbers = {name: value for name, value in values.items() if name not in self._pictures}
        if wrong := [name for name, value in numbers.items() if value.dtype not in _ARRAYS + _LISTS]:
            raise FormatError(f"{wrong[0]!r} is {numbers[wrong[0]].dtype}, which a record cannot have")
        self._fields = fields
        planes = torch.cat([values[name].reshape(-1, *values[name].shape[-2:]) for name in self._pictures])
        pixels = _tiled(planes, self._patch_px)
        patches = image_to_patches(pixels, self._patch_px)
        arrays = {name: value.numpy() for name, value in numbers.items() if value.dtype in _ARRAYS}
        lists = {name: value.tolist() for name, value in numbers.items() if value.dtype not in _ARRAYS}
        return make_record(
            class_id=0 if self._label is None else int(values[self._label].item()),
            patches=patches,
            keep_mask=np.ones((pixels.shape[0] // self._patch_px, pixels.shape[1] // self._patch_px), dtype=bool),
            codec=self._codec,
            user_json=lists or None,
            arrays=arrays or None,
            array_dtypes=dict.fromkeys(arrays, "float32"),
        )

    def _read(self, batch: ReplayBatch) -> list[TensorDictBase]:
        shapes = [self._fields[name][1] for name in self._pictures]
        counts = [int(np.prod(shape[:-2])) for shape in shapes]
        found: list[TensorDictBase] = []
        for pixels, record in zip(batch.images(), batch.records, strict=True):
            planes = _untiled(pixels, sum(counts), *shapes[0][-2:])
            parts = zip(self._pictures, planes.split(counts), shapes, strict=True)
            values: dict[str, Tensor] = {name: part.reshape(shape) for name, part, shape in parts}
            for name, value in (*record.arrays().items(), *record.user_json().items()):
                kind, shape = self._fields[name]
                values[name] = torch.from_numpy(np.array(value)).to(getattr(torch, kind)).reshape(shape)
            row = TensorDict({}, batch_size=[])
            for name in self._fields:
                row.set(tuple(name.split("/")), values[name])
            found.append(row)
        return found


class StoredWriter(RoundRobinWriter):  # type: ignore[misc]
    """Writes round robin. The generation of a slot is its exemplar's id, which no other exemplar ever gets."""

    def __init__(self) -> None:
        super().__init__(track_generations=True)

    def generations_of(self, index: int | Tensor) -> Tensor:
        """Ids by slot; -1 = none."""
        slots = torch.as_tensor(index)
        found: Tensor = self._storage.ids[slots]
        return found

    def _bump_generation(self, index: Any, data: Any) -> None:
        """The storage's ids are the generations."""


class StoredReplayBuffer(TensorDictReplayBuffer):  # type: ignore[misc]
    """torchrl's, with a :class:`StoredWriter`: samples have an ``index_generation``, and a priority for a slot that was
    written since is passed over."""

    def __init__(self, *, storage: StoredStorage, **options: Any) -> None:
        super().__init__(storage=storage, writer=StoredWriter(), **{"collate_fn": _as_it_is, **options})

    def update_tensordict_priority(self, data: TensorDictBase) -> None:
        """As torchrl's, for those rows of a sample whose exemplars are still in their slots."""
        if data.ndim != 1 or "index_generation" not in data:
            raise ValueError("a sample of this buffer is needed, with its index and index_generation")
        alive = self._writer.generations_of(data["index"]) == data["index_generation"]
        if bool(alive.any()):
            super().update_tensordict_priority(data[alive])


def _as_it_is(data: TensorDictBase) -> TensorDictBase:
    """A storage gives whole batches already."""
    return data


def _key(key: Key) -> str:
    return key if isinstance(key, str) else "/".join(key)


def _name(key: Key) -> str:
    """A key as a record has it.

    Raises:
        FormatError: it has a ``/``, which stands between nested keys there.
    """
    parts = (key,) if isinstance(key, str) else key
    if any("/" in part for part in parts):
        raise FormatError(f"a key may have no '/': {key!r}")
    return "/".join(parts)


def _tiled(planes: Tensor, patch_px: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Planes ``(N, H, W)``, three a picture, one picture below the other: ``(H', W', 3)``, whole patches."""
    height, width = planes.shape[1:]
    count = -(-len(planes) // 3)
    tiled = np.zeros((count, 3, height, width), dtype=np.uint8)
    tiled.reshape(-1, height, width)[: len(planes)] = planes.numpy()
    pixels = tiled.transpose(0, 2, 3, 1).reshape(count * height, width, 3)
    return np.pad(pixels, ((0, -pixels.shape[0] % patch_px), (0, -width % patch_px), (0, 0)))


def _untiled(pixels: np.ndarray[Any, Any], count: int, height: int, width: int) -> Tensor:
    """The first planes again, ``(count, H, W)``."""
    pictures = -(-count // 3)
    tiled = pixels[: pictures * height, :width].reshape(pictures, height, width, 3).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(tiled.reshape(-1, height, width)[:count]))
