"""Samples as the tokens a backbone takes: texts at once, pictures when they are needed."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from learner.data.base import Split
from learner.tokens import Tokens, concatenate
from memory_format import image_to_patches

# Batches that are decoded ahead while one is in use.
_AHEAD = 2
_LOADED_AT_ONCE = 64
# Loading less than this is over before anybody looks at a progress bar.
_MANY = 200


class Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class Tokenizer(Protocol):
    """What is needed of a ``tokenizers`` tokenizer: ``[CLS]`` first, ``[SEP]`` last, nothing padded."""

    def encode_batch(self, texts: list[str]) -> list[Encoding]: ...


class Samples(Protocol):
    """N full samples, in memory or not: a phase's are loaded to be trained on, those tested on pass by in batches."""

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """``(N,)`` int64."""
        ...

    def __len__(self) -> int: ...

    def of_classes(self, classes: list[int]) -> Samples:
        """The samples of some classes."""
        ...

    def load(self) -> TokenisedSplit:
        """All of them, in memory.

        Raises:
            PictureError: a picture has become unreadable.
        """
        ...

    def batches(self, batch_size: int) -> Iterator[TokenisedSplit]:
        """All of them, a batch at a time, each padded to its own longest.

        Raises:
            PictureError: a picture has become unreadable.
        """
        ...


@dataclass(frozen=True)
class TokenisedSplit:
    """N full samples in memory.

    Attributes:
        tokens: padded to the longest text and the largest grid.
        class_ids: ``(N,)`` int64.
    """

    tokens: Tokens
    class_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.class_ids)

    def of_classes(self, classes: list[int]) -> TokenisedSplit:
        """The samples of some classes."""
        index = np.flatnonzero(np.isin(self.class_ids, classes))
        return TokenisedSplit(self.tokens[torch.from_numpy(index)], self.class_ids[index])

    def load(self) -> TokenisedSplit:
        """Itself."""
        return self

    def batches(self, batch_size: int) -> Iterator[TokenisedSplit]:
        """Slices of it."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield TokenisedSplit(self.tokens[part], self.class_ids[part])


@dataclass(frozen=True)
class PictureSplit:
    """N full samples whose pictures are cut into patches when they are needed, in threads.

    Attributes:
        split: pictures, and the texts that ``token_ids`` came from.
        token_ids: of each text, as long as they are allowed to be.
        num_cut: texts that lost their end.
        longest: tokens of the longest text before that.
    """

    split: Split
    token_ids: Sequence[NDArray[np.int64]] = field(repr=False)
    patch_px: int
    num_cut: int = 0
    longest: int = 0

    @property
    def class_ids(self) -> NDArray[np.int64]:
        return self.split.class_ids

    def __len__(self) -> int:
        return len(self.split)

    def of_classes(self, classes: list[int]) -> PictureSplit:
        """The samples of some classes."""
        index = np.flatnonzero(np.isin(self.class_ids, classes)).astype(np.int64)
        return replace(self, split=self.split.take(index), token_ids=[self.token_ids[int(i)] for i in index])

    def load(self) -> TokenisedSplit:
        """All of them; see :class:`Samples`."""
        if not len(self):
            raise ValueError("there is no sample to tokenise")
        images = self.split.images
        lazy = not isinstance(images, np.ndarray)
        # Pages of a numpy array of zeros take memory when they are first written to: padding is free.
        shape = (len(self), self._most_patches(), self.patch_px, self.patch_px, 3)
        patches, row, rest = torch.from_numpy(np.zeros(shape, np.uint8)), 0, []
        hidden = None if lazy and len(self) >= _MANY else True
        with tqdm(total=len(self), desc="reading pictures", unit="picture", leave=False, disable=hidden) as bar:
            for part in self.batches(_LOADED_AT_ONCE):
                values = part.tokens.patches
                patches[row : row + len(part), : values.shape[1]] = values
                rest.append(replace(part.tokens, patches=values[..., :0]))
                row += len(part)
                bar.update(len(part))
        tokens = concatenate(rest)
        return TokenisedSplit(replace(tokens, patches=patches[:, : tokens.patches.shape[1]]), self.class_ids)

    def batches(self, batch_size: int) -> Iterator[TokenisedSplit]:
        """A batch at a time; see :class:`Samples`."""
        starts = range(0, len(self), batch_size)
        chosen = [range(start, min(start + batch_size, len(self))) for start in starts]
        if isinstance(self.split.images, np.ndarray):
            yield from (self._batch(index, list(map(self._patches, index))) for index in chosen)
            return
        pending: deque[tuple[range, list[Future[tuple[Tensor, tuple[int, int]]]]]] = deque()
        pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="pictures")
        try:
            for index in chosen:
                pending.append((index, [pool.submit(self._patches, i) for i in index]))
                if len(pending) > _AHEAD:
                    index, jobs = pending.popleft()
                    yield self._batch(index, [job.result() for job in jobs])
            for index, jobs in pending:
                yield self._batch(index, [job.result() for job in jobs])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _most_patches(self) -> int:
        images = self.split.images
        if isinstance(images, np.ndarray):
            return int(images.shape[1] // self.patch_px) ** 2
        return images.most_patches

    def _patches(self, index: int) -> tuple[Tensor, tuple[int, int]]:
        """One picture's patches ``(K, P, P, 3)`` and its grid."""
        image = self.split.images[index]
        height, width = image.shape[:2]
        grid = height // self.patch_px, width // self.patch_px
        return torch.from_numpy(image_to_patches(image, self.patch_px)), grid

    def _batch(self, index: range, pictures: list[tuple[Tensor, tuple[int, int]]]) -> TokenisedSplit:
        number = len(index)
        count = torch.tensor([len(patches) for patches, _ in pictures])
        most = int(count.max())
        patches = torch.zeros((number, most, self.patch_px, self.patch_px, 3), dtype=torch.uint8)
        for row, (values, _) in enumerate(pictures):
            patches[row, : len(values)] = values
        patch_valid = torch.arange(most) < count[:, None]
        texts = [torch.from_numpy(self.token_ids[i]) for i in index]
        length = torch.tensor([len(ids) for ids in texts])
        longest = int(length.max())
        token_valid = torch.arange(longest) < length[:, None]
        tokens = Tokens(
            patches=patches,
            patch_positions=torch.arange(most) * patch_valid,
            patch_valid=patch_valid,
            grid=torch.tensor([grid for _, grid in pictures]),
            token_ids=torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
            token_positions=torch.arange(longest).expand(number, longest).contiguous(),
            token_valid=token_valid,
        )
        return TokenisedSplit(tokens, self.class_ids[index.start : index.stop])


def tokenise(split: Split, tokenizer: Tokenizer, *, patch_px: int, max_text_tokens: int = 40) -> PictureSplit:
    """Turn texts into tokens, and pictures into patches when they are needed.

    Args:
        patch_px: side of a patch; the pictures' sides must be multiples of it.
        max_text_tokens: longer texts lose their end; ``[SEP]`` stays last.
    """
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(split.texts)]
    return PictureSplit(
        split,
        [np.array(_cut(ids, max_text_tokens), dtype=np.int64) for ids in encoded],
        patch_px,
        num_cut=sum(len(ids) > max_text_tokens for ids in encoded),
        longest=max(map(len, encoded), default=0),
    )


def _cut(ids: list[int], most: int) -> list[int]:
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
