"""The exemplars of a buffer as a torch data set by place, for torch's samplers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from client._params import Fields, Many
from client.buffer import Buffer
from client.tensors import TensorBatch, pad_rows, to_tensors
from memory_format import ConflictError
from memory_format.arguments import is_whole

_LISTED_AGAIN = 5


class ExemplarTensors(dict[str, torch.Tensor]):
    """One exemplar: as a batch of :class:`ReplayDataset`, without the first axis and without padding."""


class BufferDataset(Dataset[ExemplarTensors]):
    """The exemplars that a buffer holds at one version, or held at a snapshot, each once.

    ``dataset[i]`` is one exemplar as a dict of tensors. A ``DataLoader`` with a ``batch_size`` or a ``batch_sampler``
    fetches each batch in one request, and gives it padded (:func:`client.tensors.to_tensors`). Which exemplars there
    are is asked once, when this is made; what is pushed later is not among them. In what order they come is the
    sampler's affair: ``RandomSampler``, ``WeightedRandomSampler``, ``DistributedSampler``.

    Scores and ranks are those of then. An exemplar that was evicted since is an error, unless a snapshot keeps it.

    Args:
        buffer: whose exemplars.
        snapshot: as the buffer was when it was taken; None = as it is now.
        class_id, phase, learner_id, fields: only these; ``not_learner_id``: all but those of these learners.
        decode_threads: as in :meth:`client.batch.ReplayBatch.from_records`.

    Raises:
        ConflictError: ``stale_version``: the buffer changes faster than it is listed.
        NotFoundError: there is no such buffer or snapshot.
    """

    exemplar_id: NDArray[np.int64]
    """``(N,)``, ascending; as the next three of all exemplars, by place."""
    class_id: NDArray[np.int64]
    phase: NDArray[np.int64]
    score: NDArray[np.float32]
    version: int
    """Of the buffer when they were listed."""

    def __init__(
        self,
        buffer: Buffer,
        *,
        snapshot: str | None = None,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        not_learner_id: Many[str] = None,
        fields: Fields = None,
        decode_threads: int | None = None,
    ) -> None:
        self.buffer = buffer
        self.snapshot = snapshot
        self.decode_threads = decode_threads
        for _ in range(_LISTED_AGAIN):
            version = self._version()
            listed = buffer.query(
                class_id=class_id,
                phase=phase,
                learner_id=learner_id,
                not_learner_id=not_learner_id,
                fields=fields,
                snapshot=snapshot,
            )
            rows = [(info.exemplar_id, info.class_id, info.phase, info.score, info.rank) for info in listed]
            if self._version() == version:
                break
        else:
            raise ConflictError(
                f"buffer {buffer.name!r} has changed {_LISTED_AGAIN} times while it was listed: take a snapshot, "
                "and give its name",
                code="stale_version",
            )
        self.version = version
        columns = np.array(rows, dtype=[(name, np.float64 if name == "s" else np.int64) for name in "icpsr"])
        self.exemplar_id, self.class_id, self.phase = columns["i"], columns["c"], columns["p"]
        self.score, self._rank = columns["s"].astype(np.float32), columns["r"]

    def _version(self) -> int:
        if self.snapshot is not None:
            return self.buffer.snapshot(self.snapshot).version
        return self.buffer.info().version

    def __len__(self) -> int:
        """Exemplars."""
        return len(self.exemplar_id)

    def __getitem__(self, place: int) -> ExemplarTensors:
        """One exemplar.

        Raises:
            IndexError: there is no such place.
            NotFoundError: it was evicted since.
        """
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Iterable[int]) -> Exemplars:
        """Several of them in one request, in this order; the same place may come again."""
        wanted = [self._place(place) for place in places]
        unique = list(dict.fromkeys(wanted))
        tensors = self._fetch(unique) if unique else {}
        if len(unique) < len(wanted):
            row_of = {place: row for row, place in enumerate(unique)}
            rows = torch.tensor([row_of[place] for place in wanted])
            tensors = {name: values[rows] for name, values in tensors.items()}
        return Exemplars(tensors, len(wanted))

    def _place(self, place: int) -> int:
        if not is_whole(place, -len(self), len(self) - 1):
            raise IndexError(f"places are 0..{len(self) - 1}, got {place!r:.100}")
        return int(place) % len(self)

    def _fetch(self, places: list[int]) -> TensorBatch:
        batch = self.buffer.fetch(self.exemplar_id[places], snapshot=self.snapshot, decode_threads=self.decode_threads)
        tensors = to_tensors(batch)
        tensors["score"] = torch.from_numpy(self.score[places])
        tensors["rank"] = torch.from_numpy(self._rank[places])
        return tensors


class Exemplars:
    """Exemplars that were fetched together: a batch as :attr:`tensors`, and one by one as torch has samples."""

    def __init__(self, tensors: TensorBatch, count: int) -> None:
        self.tensors = tensors
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> ExemplarTensors:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        one = ExemplarTensors({name: values[row] for name, values in self.tensors.items()})
        for kind, names in _PADDED.items():
            count = int(one[f"{kind}_valid"].sum())
            for name in names & one.keys():
                one[name] = one[name][:count]
        return one

    def __iter__(self) -> Iterator[ExemplarTensors]:
        return map(self.__getitem__, range(len(self)))


_PADDED = {
    "patch": {"patches", "patch_positions", "patch_valid", "patch_picture"},
    "token": {"token_ids", "token_positions", "token_valid", "token_turn", "token_role"},
}


def _collate(batch: Exemplars | Sequence[ExemplarTensors], **_: Any) -> TensorBatch:
    """A batch, padded to its largest. Those that were fetched together are one."""
    if isinstance(batch, Exemplars):
        return batch.tensors
    return pad_rows(batch)


default_collate_fn_map[ExemplarTensors] = _collate
