"""PyCIL's and PILOT's rehearsal memory with its exemplars in the service.

Neither is in a registry: a learner's own class is given, and it selects as ever::

    from models.icarl import iCaRL
    from learner.adapters.pycil import StoredMemory

    class StoredICaRL(StoredMemory, iCaRL): ...

    learner = StoredICaRL(args, memory=memory.create_buffer("icarl", budget_bytes=1_000_000))
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client import Buffer
from client.files import replacing
from client.from_image import read_rgb
from client.phase_report import phase_report
from learner.adapters._exemplars import Exemplars, expect_state
from learner.adapters._pictures import Kind, Pixels, Recorder, name_of, pixels_of

__all__ = ["Recorder", "StoredMemory"]

if TYPE_CHECKING:
    _Learner = Any
else:
    _Learner = object


class StoredMemory(_Learner):  # type: ignore[misc]
    """To be mixed into a learner of PyCIL or PILOT: ``_data_memory`` lies in the service.

    The learner's methods build and reduce that array as ever, and those of its subclasses that touch it directly do.
    When :meth:`build_rehearsal_memory` returns, what is new in it is pushed, what is gone is deleted, and the array
    itself is let go: it is made again, of decoded pictures, when somebody reads it. The order within a class is the
    rank, so a budget in bytes cuts each class's order from behind, and ``_targets_memory`` is shortened likewise.

    Where data are paths (``use_path``), exemplars are PNG files in ``folder``, made when they are read.

    Args:
        memory: of the service. Nobody else may change it meanwhile.
        recorder: how pictures become records: codec, size of patches, masks.
        folder: for data that are paths.
        cache_bytes: the most that decoded pictures may take; as in :class:`Exemplars`.
        report: as in :func:`client.phase_report.phase_report`, which is called after each task.
    """

    _targets_memory: NDArray[Any]

    def __init__(
        self,
        *arguments: Any,
        memory: Buffer,
        recorder: Recorder | None = None,
        folder: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        report: Callable[[str], object] | None = None,
        **options: Any,
    ) -> None:
        self.recorder = Recorder() if recorder is None else recorder
        self.exemplars: Exemplars[Pixels] = Exemplars(
            memory, pixels_of, lambda pixels: pixels.nbytes, cache_bytes=cache_bytes
        )
        self._folder = None if folder is None else Path(folder)
        self._report = report
        self._ids: list[int] = []
        self._ranks: dict[int, int] = {}
        self._are_paths = False
        self._channels = 3
        self._pending: NDArray[Any] | None = None
        super().__init__(*arguments, **options)

    @property
    def _data_memory(self) -> NDArray[Any]:
        """``(N, H, W, C)`` uint8, or ``(N,)`` paths; empty without exemplars."""
        if self._pending is not None:
            return self._pending
        if not self._ids:
            return np.array([])
        if self._are_paths:
            return np.array([str(self._file(id_)) for id_ in self._ids])
        kind = Kind("array", self._channels)
        return np.stack([kind.sample(pixels) for pixels in self.exemplars.get(self._ids)])

    @_data_memory.setter
    def _data_memory(self, data: NDArray[Any]) -> None:
        self._pending = np.asarray(data)

    def build_rehearsal_memory(self, data_manager: Any, per_class: int) -> None:
        """As the learner's. What it has chosen is in the service when this returns."""
        super().build_rehearsal_memory(data_manager, per_class)
        pushed = self._store()
        phase_report(self.exemplars.buffer, max(0, self._cur_task), pushed, self._report)

    def after_task(self) -> None:
        """As the learner's, which may have changed the memory once more."""
        super().after_task()
        self._store()

    def _store(self) -> Any:
        if self._pending is None:
            return None
        data, targets = self._pending, np.asarray(self._targets_memory)
        known = self._known()
        ids = [of_row.pop(0) if (of_row := known[_name(row)]) else -1 for row in data]
        ranks = _ranks(targets)
        gone = [id_ for ids_ in known.values() for id_ in ids_]
        self.exemplars.remove(gone)
        # Now: where the push fails, what was chosen is still pending.
        self._ids = [id_ for id_ in ids if id_ >= 0]
        if self._are_paths:
            for id_ in gone:
                self._file(id_, make=False).unlink(missing_ok=True)
        moved = {id_: rank for id_, rank in zip(ids, ranks, strict=True) if id_ >= 0 and self._ranks[id_] != rank}
        if moved:
            self.exemplars.buffer.update_scores(list(moved), ranks=list(moved.values()))
        fresh = [place for place, id_ in enumerate(ids) if id_ < 0]
        pushed = self.exemplars.push([self._record(data[place], int(targets[place]), ranks[place]) for place in fresh])
        for place, id_ in zip(fresh, pushed.exemplar_ids.tolist(), strict=True):
            ids[place] = id_
        kept = [place for place, id_ in enumerate(ids) if id_ >= 0 and id_ not in pushed.evicted]
        self._ids = [ids[place] for place in kept]
        self._ranks = {ids[place]: ranks[place] for place in kept}
        self._targets_memory = targets[kept]
        self._pending = None
        return pushed.result

    def _record(self, row: Any, class_id: int, rank: int) -> Any:
        self._are_paths = isinstance(row, str)
        pixels = np.asarray(read_rgb(str(row))) if isinstance(row, str) else row
        kind = Kind.of(pixels)
        self._channels = kind.channels
        return self.recorder.record(kind.pixels(pixels), class_id=class_id, rank=rank, phase=max(0, self._cur_task))

    def _known(self) -> defaultdict[str, list[int]]:
        """Exemplars by what names their rows; the same picture may be there more than once."""
        if self._are_paths:
            names = [str(self._file(id_, make=False)) for id_ in self._ids]
        else:
            kind = Kind("array", self._channels)
            names = [_name(kind.sample(pixels)) for pixels in self.exemplars.get(self._ids)]
        found: defaultdict[str, list[int]] = defaultdict(list)
        for name, id_ in zip(names, self._ids, strict=True):
            found[name].append(id_)
        return found

    def _file(self, exemplar_id: int, *, make: bool = True) -> Path:
        """Raises ``ValueError``: no folder was given for it."""
        if self._folder is None:
            raise ValueError("the data are paths: give StoredMemory a folder= for its exemplars' files")
        path = self._folder / f"{self.exemplars.buffer.name}-{exemplar_id}.png"
        if make and not path.exists():
            (pixels,) = self.exemplars.get([exemplar_id], ahead=self._ids)
            with replacing(path) as file:
                Image.fromarray(pixels).save(file, format="PNG")
        return path

    def state_dict(self) -> dict[str, Any]:
        """Of the memory: the name of a snapshot in place of pictures."""
        self._store()
        return {
            "exemplars": self.exemplars.state_dict(),
            "ids": list(self._ids),
            "ranks": [self._ranks[id_] for id_ in self._ids],
            "targets": np.asarray(self._targets_memory).tolist(),
            "are_paths": self._are_paths,
            "channels": self._channels,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was taken; see :meth:`Exemplars.load_state_dict`.

        Raises:
            ValueError: it is no such state.
        """
        expect_state("StoredMemory", state, "exemplars", "ids", "ranks", "targets", "are_paths", "channels")
        self.exemplars.load_state_dict(state["exemplars"])
        self._ids = list(state["ids"])
        self._ranks = dict(zip(self._ids, state["ranks"], strict=True))
        self._targets_memory = np.array(state["targets"], dtype=np.int64)
        self._are_paths, self._channels = state["are_paths"], state["channels"]
        self._pending = None


def _name(row: Any) -> str:
    """Names a row of the memory: a path itself, a picture by its pixels."""
    return row if isinstance(row, str) else name_of(row)


def _ranks(targets: Sequence[int] | NDArray[Any]) -> list[int]:
    """Of each row, how many of its class are before it."""
    seen: dict[int, int] = {}
    ranks = []
    for target in targets:
        ranks.append(seen.get(int(target), 0))
        seen[int(target)] = ranks[-1] + 1
    return ranks
