"""New samples and replayed ones in one batch, at a ratio, for a training loop that knows nothing of a memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from client._params import whole
from client._replayed_rows import Place, ReplayedRows
from client._world import world_of
from client.dataset import ReplayDataset
from client.pictures import FILL, colour_of, pictures_of
from client.tensors import TensorBatch
from memory_format.arguments import is_number

Transform: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""A picture ``(3, H, W)`` uint8 and its mask ``(H, W)`` uint8, 1 = kept -> both as they go into the batch."""

Combine: TypeAlias = Callable[[Any, TensorBatch | None], Any]
"""A batch of new samples and the replayed rows that go with it, if any -> what is given to the training loop."""

_FORMAT: Final = 1
_MEMBERS: Final = {"format", "step", "due", "row", "new", "replay"}
_ALMOST: Final = 1e-9
"""Ten times 0.1 is one."""
_MOST: Final = 1000.0


class Mixed:
    """A loader: each batch of new samples, with replayed ones behind it.

    The batches are dicts of ``pixel_values`` ``(B, 3, H, W)``, ``labels`` ``(B,)``, ``mask`` ``(B, H, W)`` bool, True
    where a pixel is content, and ``replayed`` ``(B,)`` bool. One iteration is one over ``new``. Replayed samples are
    the rows that ``replay`` draws, each once and in order, however many a batch takes. Its epochs follow one another,
    and go on where an iteration ended or was left.

    Randomness: draws come from ``replay``'s seed. A ``transform`` finds torch's generator of the CPU seeded from the
    sample's place in the run, and leaves it as it was. So a run that goes on from :meth:`state_dict` is the same run.

    It is a loader and no data set: what works ahead are the workers of ``new`` and the threads of ``replay``.

    Args:
        new: batches ``(pixel_values, labels)``, or mappings with these two: a ``DataLoader``, say. For
            :meth:`state_dict` it needs one of its own, as torchdata's ``StatefulDataLoader`` has.
        replay: where replayed samples come from. Its ``batch_size`` is how many are fetched at once.
        ratio: replayed samples for each new one: 1 is as many, 0.5 half as many. What is left of a sample is due with
            the next batch. With 0 the memory is not asked.
        schedule: the ratio by step, in place of one number: a function of the step, or ``{first step: ratio}``, each
            of which holds up to the next; before the first it is 0. Steps count from 0, over all iterations.
        transform: what to do to replayed pictures, as ``new`` does to its own: one of
            ``torchvision.transforms.v2``, say. Where torchvision is installed, both come as its ``tv_tensors``.
            None: values 0..1 where those of ``new`` are floating-point, and else 0..255.
        fill: the colour of dropped patches, three values 0..255.
        combine: makes the batch in place of all that, of the batch of ``new`` as it is and of rows as
            :class:`~client.dataset.ReplayDataset` has them; None where none is due.

    Raises:
        TypeError: ``replay`` is no :class:`~client.dataset.ReplayDataset`, or ``new`` no loader.
        ValueError: not exactly one of ``ratio`` and ``schedule`` is given, or a value makes no sense.
    """

    def __init__(
        self,
        new: Iterable[Any],
        replay: ReplayDataset,
        *,
        ratio: float | None = None,
        schedule: Callable[[int], float] | Mapping[int, float] | None = None,
        transform: Transform | None = None,
        fill: Sequence[int] = FILL,
        combine: Combine | None = None,
    ) -> None:
        if not isinstance(replay, ReplayDataset):
            raise TypeError(f"replay must be a ReplayDataset, got {type(replay).__name__}")
        if isinstance(new, Iterator) or not isinstance(new, Iterable):
            raise TypeError(f"new must be a loader, which can be iterated over again, got {type(new).__name__}")
        if combine is not None and transform is not None:
            raise ValueError("transform or combine, not both: combine makes the pictures too, if any are wanted")
        self.new = new
        self.replay = replay
        self._ratio_at = _ratios(ratio, schedule)
        self._combine = combine or _Pictures(replay, transform, colour_of(fill))
        self._step = 0
        self._due = 0.0
        self._place: Place | None = None

    def __len__(self) -> int:
        """Batches of an iteration.

        Raises:
            TypeError: ``new`` has no length.
        """
        return len(cast(Sized, self.new))

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise RuntimeError(
                "Mixed is a loader, and each of these workers would give all of it: iterate over it in the training "
                "process, and give the workers to the loader of new samples"
            )
        self._place = self._begun()
        rows = ReplayedRows(self.replay, self._place)
        try:
            for batch in self.new:
                ratio = self._ratio_at(self._step)
                if not is_number(ratio, 0, _MOST):
                    raise ValueError(f"a ratio is a number in 0..{_MOST:g}, got {ratio!r:.100} for step {self._step}")
                due = self._due + ratio * _size(batch)
                count = math.floor(due + _ALMOST)
                mixed = self._combine(batch, rows.take(count) if count else None)
                # Only now: where something has failed, the same is due again.
                self._step, self._due, self._place = self._step + 1, due - count, rows.place
                yield mixed
        finally:
            rows.close()

    def state_dict(self) -> dict[str, Any]:
        """What comes after the batch that was given last: the states of both, and a few numbers.

        Raises:
            TypeError: ``new`` has no state.
        """
        if not hasattr(self.new, "state_dict"):
            raise TypeError(
                f"a {type(self.new).__name__} has no state, so nobody could go on with the same new samples: give "
                "torchdata's StatefulDataLoader, which takes the same arguments"
            )
        replay, row = self._begun().state_of(self.replay)
        return {
            "format": _FORMAT,
            "step": self._step,
            "due": self._due,
            "row": row,
            "new": self.new.state_dict(),
            "replay": replay,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on where a state was taken. The ratio may be another one.

        Raises:
            ValueError: the state is none, of a newer format, or of other draws.
        """
        if not _MEMBERS.issubset(state):
            raise ValueError(f"this is not what Mixed.state_dict() gives: {state!r:.100}")
        if whole("format", state["format"], 1) > _FORMAT:
            raise ValueError(f"the state is of format {state['format']}, which a newer version wrote")
        if not hasattr(self.new, "load_state_dict"):
            raise ValueError(f"the state is one of new samples too, and a {type(self.new).__name__} cannot load it")
        step, row = whole("step", state["step"], 0), whole("row", state["row"], 0, self.replay.batch_size - 1)
        if not is_number(state["due"], -1, 1):
            raise ValueError(f"due is what is left of a sample, got {state['due']!r:.100}")
        self.replay.load_state_dict(state["replay"])
        self.new.load_state_dict(state["new"])
        self._step, self._due, self._place = step, float(state["due"]), Place(state["replay"], row)

    def _begun(self) -> Place:
        return self._place or Place(self.replay.state_dict(), 0)


def _ratios(
    ratio: float | None, schedule: Callable[[int], float] | Mapping[int, float] | None
) -> Callable[[int], float]:
    if (ratio is None) == (schedule is None):
        raise ValueError("either ratio or schedule is needed: replayed samples for each new one")
    if ratio is not None:
        schedule = {0: ratio}
    if not isinstance(schedule, Mapping):
        assert schedule is not None
        return schedule
    for step, value in schedule.items():
        whole("a step of the schedule", step, 0)
        if not is_number(value, 0, _MOST):
            raise ValueError(f"a ratio is a number in 0..{_MOST:g}, got {value!r:.100}")
    steps = sorted(schedule.items(), reverse=True)
    return lambda step: next((value for first, value in steps if first <= step), 0.0)


def _size(batch: Any) -> int:
    """Samples of a batch."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else [batch]
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise TypeError(f"a batch of new samples must have a tensor that says how many they are, got {batch!r:.100}")


@dataclass(frozen=True)
class _Pictures:
    """The way to make batches that most training loops take."""

    replay: ReplayDataset
    transform: Transform | None
    fill: Sequence[int]

    def __call__(self, batch: Any, rows: TensorBatch | None) -> TensorBatch:
        pixels, labels, mask = _new(batch)
        replayed = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        if rows is not None:
            more, kept = self._pictures(rows, pixels.is_floating_point())
            if more.shape[1:] != pixels.shape[1:]:
                raise ValueError(
                    f"replayed pictures are {tuple(more.shape[1:])} and new ones {tuple(pixels.shape[1:])}: give a "
                    "transform that makes them alike, such as torchvision.transforms.v2.Resize"
                )
            pixels = torch.cat([pixels, more.to(pixels)])
            mask = torch.cat([mask, kept.to(mask)])
            labels = torch.cat([labels, rows["class_id"].to(labels)])
            replayed = torch.cat([replayed, replayed.new_ones(len(more))])
        return {"pixel_values": pixels, "labels": labels, "mask": mask, "replayed": replayed}

    def _pictures(self, rows: TensorBatch, as_float: bool) -> tuple[Tensor, Tensor]:
        if self.transform is None:
            pixels, mask = pictures_of(rows, self.fill)
            return pixels.float() / 255 if as_float else pixels, mask
        rank = world_of(self.replay.rank, self.replay.world_size)[0]
        run = f"{self.replay.seed} {self.replay.stream} {rank}"
        found = []
        with torch.random.fork_rng(devices=[]):
            for row, (step, place) in enumerate(zip(rows["step"].tolist(), rows["row"].tolist(), strict=True)):
                digest = hashlib.blake2b(f"{run} {step} {place}".encode(), digest_size=7).digest()
                torch.default_generator.manual_seed(int.from_bytes(digest, "little"))
                pixels, mask = pictures_of({name: values[row : row + 1] for name, values in rows.items()}, self.fill)
                found.append(self.transform(*_as_tv_tensors(pixels[0], mask[0].to(torch.uint8))))
        if shapes := {tuple(pixels.shape) for pixels, _ in found[1:]} - {tuple(found[0][0].shape)}:
            raise ValueError(
                f"replayed pictures are {tuple(found[0][0].shape)} and {min(shapes)} after transform: give one that "
                "makes them alike, such as torchvision.transforms.v2.Resize"
            )
        pixels, masks = (
            torch.stack([each.as_subclass(Tensor) for each in column]) for column in zip(*found, strict=True)
        )
        return pixels, masks > 0


def _new(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, labels and mask of new samples."""
    members: Mapping[Any, Any] = {}
    if isinstance(batch, Mapping):
        members = batch
    elif isinstance(batch, list | tuple) and len(batch) == 2:
        members = {"pixel_values": batch[0], "labels": batch[1]}
    known = {"pixel_values", "labels", "mask"}
    if not {"pixel_values", "labels"} <= members.keys() <= known:
        what = sorted(map(str, members)) if members else type(batch).__name__
        raise ValueError(
            f"batches of new samples are (pixel_values, labels), or mappings with these and maybe mask, got {what}; "
            "Mixed(combine=) makes batches of any others"
        )
    pixels, labels = members["pixel_values"], members["labels"]
    if not (isinstance(pixels, Tensor) and pixels.ndim == 4 and isinstance(labels, Tensor) and labels.ndim == 1):
        raise ValueError(
            "pixel_values are (B, C, H, W) and labels (B,) tensors, got "
            f"{tuple(getattr(pixels, 'shape', ()))} and {tuple(getattr(labels, 'shape', ()))}; "
            "Mixed(combine=) makes batches of any others"
        )
    mask = members.get("mask")
    if mask is None:
        mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool, device=pixels.device)
    return pixels, labels, mask


def _as_tv_tensors(picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """So that torchvision's transforms know which is which, and move both alike."""
    try:
        from torchvision import tv_tensors
    except ImportError:
        return picture, mask
    return tv_tensors.Image(picture), tv_tensors.Mask(mask)
