"""Ways to store the exemplars of one of Avalanche's policies in so many bytes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.gain.model import Frozen
from client import Buffer
from learner.adapters._pictures import again
from learner.adapters.avalanche import Recorder, StoredExemplars
from learner.adapters.avalanche_icarl import store_icarl
from memory_format import AVIF, PatchCodec, Record, WebP

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.benchmarks import nc_benchmark
    from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer
    from avalanche.training.supervised.der import ClassBalancedBufferWithLogits
    from avalanche.training.supervised.icarl import _ICaRLPlugin

PHASES: Final = 5
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "JPEG": {"optimize": True},
    "AVIF": {"speed": 4, "max_threads": 1},
}
_NO_LIMIT: Final = 100_000
"""Items: bytes alone decide."""
_FLOAT: Final = 4
"""Bytes."""


@dataclass(frozen=True)
class Way:
    """How exemplars are stored.

    Attributes:
        words: for tables.
        file: format and quality of the files in the library's own buffer; None = pixels as they are, or the service.
        codec: the service's; None = the library's own buffer.
        masked: store the patches that matter, not whole pictures.
        attends: of whole pictures, the model looks at those patches alone, in training and in tests.
    """

    words: str
    file: tuple[str, int] | None = None
    codec: PatchCodec | None = None
    masked: bool = False
    attends: bool = False

    @property
    def own(self) -> bool:
        """The library's own buffer."""
        return self.codec is None


WAYS: Final[Mapping[str, Way]] = {
    "pixels": Way("own buffer, pixels as they are"),
    **{f"jpeg-{q}": Way(f"own buffer, JPEG files, quality {q}", file=("JPEG", q)) for q in (75, 20, 10, 5)},
    "avif-files": Way("own buffer, AVIF files, quality 10", file=("AVIF", 10)),
    "jpeg-attending": Way("own buffer, JPEG files, quality 10, attending", file=("JPEG", 10), attends=True),
    "whole": Way("service, whole pictures, AVIF", codec=AVIF(quality=10)),
    "whole-attending": Way("service, whole pictures, AVIF, attending", codec=AVIF(quality=10), attends=True),
    "masked-webp": Way("service, masked, WebP", codec=WebP(quality=5), masked=True, attends=True),
    "masked": Way("service, masked, AVIF", codec=AVIF(quality=10), masked=True, attends=True),
}


def class_incremental(pictures: Tensor, classes: Tensor, seed: int) -> Any:
    """A benchmark of Avalanche of :data:`PHASES` experiences: a third of the classes first, then equal parts.

    The order of the classes is the seed's. There is nothing to test on in it.

    Args:
        pictures: ``(N, 3, H, W)`` uint8.
        classes: ``(N,)``, from 0.
    """
    data: Any = TensorDataset(pictures, classes)
    data.targets = classes.tolist()
    number = int(classes.max()) + 1
    first = number - (PHASES - 1) * (number // (PHASES + 1))
    return nc_benchmark(data, data, n_experiences=PHASES, task_labels=False, seed=seed, per_exp_classes={0: first})


@dataclass(frozen=True)
class Files:
    """Pictures as they come back from files.

    Attributes:
        pictures: ``(N, 3, H, W)`` uint8.
        sizes: ``(N,)`` bytes of the files; JPEG's tables are as small as can be.
    """

    pictures: Tensor
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, pictures: Tensor, file: tuple[str, int] | None) -> Files:
        """In a format and quality; None: as they are."""
        if file is None:
            return cls(pictures, np.full(len(pictures), pictures[0].nbytes))
        form, quality = file
        files = [io.BytesIO() for _ in pictures]
        for to, picture in zip(files, pictures, strict=True):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(to, form, quality=quality, **_OPTIONS[form])
        decoded = np.stack([np.array(Image.open(one)) for one in files])
        sizes = np.array([one.getbuffer().nbytes for one in files])
        return cls(torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous(), sizes)

    def held(self, pictures: Iterable[Tensor]) -> int:
        """Bytes of the files of some of these."""
        of = {_key(picture): int(size) for picture, size in zip(self.pictures, self.sizes, strict=True)}
        return sum(of[_key(picture)] for picture in pictures)


def _key(picture: Tensor) -> bytes:
    return picture.numpy().tobytes()


class _AsFiles(ExemplarsBuffer):  # type: ignore[misc]  # Avalanche's classes are of no type that mypy knows
    """To be mixed into the library's own policy: what it keeps is shown as files give it."""

    def __init__(self, max_size: int, shown: Mapping[bytes, Tensor]) -> None:
        super().__init__(max_size)
        self._shown = shown

    @property
    def buffer(self) -> Any:
        kept = super().buffer
        return kept.replace_current_transform_group((self._read, None)) if len(kept) else kept

    def _read(self, picture: Tensor) -> Tensor:
        return self._shown[_key(picture)]


class FilesBuffer(_AsFiles, ClassBalancedBuffer):  # type: ignore[misc]  # the same
    """The policy of ER, ER-ACE and GDumb."""

    def update(self, strategy: Any, **_: Any) -> None:
        """What Avalanche's plugins call, though its own policies warn of it."""
        self.post_adapt(strategy, strategy.experience)


class FilesBufferWithLogits(_AsFiles, ClassBalancedBufferWithLogits):  # type: ignore[misc]  # the same
    """That of DER, whose logits are of pictures as they were."""


class FilesICaRL(_ICaRLPlugin):  # type: ignore[misc]  # the same
    """The library's own plugin: what it has chosen is kept as files give it."""

    def __init__(self, plugin: _ICaRLPlugin, shown: Mapping[bytes, Tensor]) -> None:
        super().__init__(plugin.memory_size, plugin.buffer_transform, plugin.fixed_memory)
        self._shown = shown

    def construct_exemplar_set(self, strategy: Any) -> None:
        known = len(self.x_memory)
        super().construct_exemplar_set(strategy)
        for place in range(known, len(self.x_memory)):
            self.x_memory[place] = torch.stack([self._shown[_key(one)] for one in self.x_memory[place]])


class Remembering(Recorder):
    """A recorder that encodes a picture once, for all seeds."""

    def record(
        self,
        pixels: NDArray[np.uint8],
        *,
        rank: int = 0,
        arrays: dict[str, NDArray[Any]] | None = None,
        **fields: Any,
    ) -> Record:
        encoded = _encoded(self, pixels.tobytes(), pixels.shape)
        return again(replace(encoded, rank=rank), arrays=arrays, **fields)


@cache
def _encoded(recorder: Remembering, pixels: bytes, shape: tuple[int, ...]) -> Record:
    return Recorder.record(recorder, np.frombuffer(pixels, np.uint8).reshape(shape), class_id=0)


class Stores:
    """Makes policies of the same training pictures.

    Args:
        pictures: ``(N, 3, H, W)`` uint8.
        classes: ``(N,)``.
        frozen: whose masks are stored.
        budget_bytes: of each policy.
        buffer: makes one of the service with that budget, from a name.
    """

    def __init__(
        self,
        pictures: Tensor,
        classes: Tensor,
        frozen: Frozen,
        budget_bytes: int,
        buffer: Callable[[str], Buffer],
    ) -> None:
        self._pictures, self._classes = pictures, classes
        self._frozen = frozen
        self._budget_bytes = budget_bytes
        self._buffer = buffer
        self._files: dict[tuple[str, int] | None, Files] = {}
        self._recorders: dict[Way, Recorder] = {}

    def policy(self, way: Way, name: str, seed: int, *, logits: int = 0) -> tuple[ExemplarsBuffer, Callable[[], int]]:
        """A policy that keeps as many of each class, and what says how many bytes it holds.

        Args:
            name: of the service's buffer, where one is needed.
            logits: float32 values that it keeps with each picture: DER's policy.
        """
        if way.codec is not None:
            buffer = self._buffer(name)
            like = class_incremental(self._pictures, self._classes, seed).train_stream[0].dataset
            policy = (ClassBalancedBufferWithLogits if logits else ClassBalancedBuffer)(_NO_LIMIT)
            stored = StoredExemplars(policy, buffer, like=like, recorder=self._recorder(way))
            return stored, lambda: buffer.stats().bytes_used
        files, beside = self._files_of(way), logits * _FLOAT
        kind = FilesBufferWithLogits if logits else FilesBuffer
        kept = kind(self.items(way, beside), self._shown(way))
        return kept, lambda: files.held(picture for picture, *_ in kept.buffer) + beside * len(kept.buffer)

    def into(self, strategy: Any, way: Way, name: str) -> tuple[Callable[[], int], Callable[[], int]]:
        """Let an ``ICaRL`` keep its exemplars so. Returns what says how many items, and how many bytes, it holds."""
        if way.codec is not None:
            buffer = self._buffer(name)
            store_icarl(strategy, buffer, recorder=self._recorder(way))
            return lambda: buffer.info().num_records, lambda: buffer.stats().bytes_used
        files = self._files_of(way)
        (place,) = (at for at, plugin in enumerate(strategy.plugins) if type(plugin) is _ICaRLPlugin)
        kept = strategy.plugins[place] = FilesICaRL(strategy.plugins[place], self._shown(way))
        return lambda: sum(map(len, kept.x_memory)), lambda: files.held(one for of in kept.x_memory for one in of)

    def items(self, way: Way, beside: int = 0) -> int:
        """The most that a way may hold, with so many bytes beside each picture."""
        if way.codec is not None:
            return _NO_LIMIT
        return int(self._budget_bytes / (self._files_of(way).sizes.mean() + beside))

    def _shown(self, way: Way) -> dict[bytes, Tensor]:
        """By pictures as they are, as files give them."""
        return {_key(picture): one for picture, one in zip(self._pictures, self._files_of(way).pictures, strict=True)}

    def _recorder(self, way: Way) -> Recorder:
        if way not in self._recorders:
            masked = self._frozen.mask if way.masked else None
            self._recorders[way] = Remembering(codec=way.codec, patch_px=self._frozen.patch_px, masked=masked)
        return self._recorders[way]

    def _files_of(self, way: Way) -> Files:
        if way.file not in self._files:
            self._files[way.file] = Files.of(self._pictures, way.file)
        return self._files[way.file]
