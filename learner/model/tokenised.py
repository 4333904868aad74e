"""Samples as the tokens a backbone takes: texts at once, pictures when they are needed."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from client.prefetch import Prefetched
from learner.data.base import Split
from learner.data.pictures import LazyPictures
from learner.model.tokens import Tokens
from memory_format import image_to_patches

# Batches that are decoded ahead while one is in use.
_AHEAD = 2
# Loading less than this is over before anybody looks at a progress bar.
_MANY = 200


class Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class Tokenizer(Protocol):
    """What is needed of a ``tokenizers`` tokenizer: ``[CLS]`` first, ``[SEP]`` last, nothing padded."""

    def encode_batch(self, texts: list[str]) -> list[Encoding]: ...


@dataclass(frozen=True)
class TokenisedSplit:
    """N full samples in memory.

    Attributes:
        tokens: padded to the longest text and the largest grid.
        class_ids: ``(N,)`` int64.
        object_shares: ``(N, K)`` in [0, 1], what of each patch the object covers, for analysis only; None where the
            data set does not know, and in batches that pass by.
    """

    tokens: Tokens
    class_ids: NDArray[np.int64]
    object_shares: Tensor | None = None

    def __len__(self) -> int:
        return len(self.class_ids)

    def __getitem__(self, rows: Tensor | slice) -> TokenisedSplit:
        """Samples by their numbers, ``(M,)`` int64, or a slice of them."""
        shares = None if self.object_shares is None else self.object_shares[rows]
        class_ids = self.class_ids[rows if isinstance(rows, slice) else rows.numpy()]
        return TokenisedSplit(self.tokens[rows], class_ids, shares)

    def of_classes(self, classes: list[int], at_most: int = 0) -> TokenisedSplit:
        """The samples of some classes; of each at most so many, its first ones (0 = all)."""
        return self[torch.from_numpy(_rows_of(self.class_ids, classes, at_most))]

    def load(self) -> TokenisedSplit:
        """Itself."""
        return self

    def batches(self, batch_size: int) -> Iterator[TokenisedSplit]:
        """Slices of it."""
        for start in range(0, len(self), batch_size):
            yield self[start : start + batch_size]


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

    def of_classes(self, classes: list[int], at_most: int = 0) -> PictureSplit:
        """As :meth:`TokenisedSplit.of_classes`."""
        index = _rows_of(self.class_ids, classes, at_most)
        return replace(self, split=self.split.take(index), token_ids=[self.token_ids[int(i)] for i in index])

    def load(self) -> TokenisedSplit:
        """All of them, in memory.

        Raises:
            PictureError: a picture has become unreadable.
        """
        if not len(self):
            raise ValueError("there is no sample to tokenise")
        hidden = None if len(self) >= _MANY and not isinstance(self.split.images, np.ndarray) else True
        with (
            tqdm(total=len(self), desc="reading pictures", unit="picture", leave=False, disable=hidden) as bar,
            contextlib.closing(self._stream(len(self), bar.update)) as batches,
        ):
            return replace(next(batches), object_shares=self._object_shares())

    def batches(self, batch_size: int) -> Iterator[TokenisedSplit]:
        """All of them, a batch at a time, each padded to its own longest.

        Raises:
            PictureError: a picture has become unreadable.
        """
        return self._stream(batch_size, lambda: None)

    def _stream(self, batch_size: int, done: Callable[[], object]) -> Generator[TokenisedSplit]:
        """Batches, the next ones on their way while one is in use; ``done`` is called after each picture."""
        images = self.split.images
        most = images.most_patches if isinstance(images, LazyPictures) else (images.shape[1] // self.patch_px) ** 2
        begun: deque[tuple[range, NDArray[np.uint8]]] = deque()

        def places() -> Iterator[tuple[int, NDArray[np.uint8]]]:
            for start in range(0, len(self), batch_size):
                index = range(start, min(start + batch_size, len(self)))
                # Pages of zeros take no memory before they are written to: room for pictures of any shape is free.
                patches = np.zeros((len(index), most, self.patch_px, self.patch_px, 3), np.uint8)
                begun.append((index, patches))
                yield from zip(index, patches, strict=True)

        threads = min(16, torch.get_num_threads())
        with Prefetched(self._cut, places(), ahead=_AHEAD * batch_size, threads=threads, name="pictures") as cut:
            while begun:
                index, patches = begun.popleft()
                grids = []
                for _ in index:
                    grids.append(next(cut))
                    done()
                yield self._joined(index, patches, grids)

    def _cut(self, place: tuple[int, NDArray[np.uint8]]) -> tuple[int, int]:
        """Write one picture's patches to the front of ``(K, P, P, 3)``, and return its grid."""
        index, out = place
        image = self.split.images[index]
        patches = image_to_patches(image, self.patch_px)
        out[: len(patches)] = patches
        return image.shape[0] // self.patch_px, image.shape[1] // self.patch_px

    def _joined(self, index: range, patches: NDArray[np.uint8], grids: list[tuple[int, int]]) -> TokenisedSplit:
        grid = torch.tensor(grids)
        count = grid.prod(1)
        most = int(count.max())
        patch_valid = torch.arange(most) < count[:, None]
        texts = [torch.from_numpy(self.token_ids[i]) for i in index]
        length = torch.tensor([len(ids) for ids in texts])
        longest = int(length.max())
        tokens = Tokens(
            patches=torch.from_numpy(patches)[:, :most],
            patch_positions=torch.arange(most) * patch_valid,
            patch_valid=patch_valid,
            grid=grid,
            token_ids=torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
            token_positions=torch.arange(longest).expand(len(texts), longest).contiguous(),
            token_valid=torch.arange(longest) < length[:, None],
        )
        return TokenisedSplit(tokens, self.class_ids[index.start : index.stop])

    def _object_shares(self) -> Tensor | None:
        """``(N, K)``; pictures with masks of their objects are all of one size."""
        masks = self.split.object_masks
        if masks is None:
            return None
        cells = masks.shape[1] // self.patch_px
        cut = torch.from_numpy(masks).float().reshape(len(self), cells, self.patch_px, cells, self.patch_px)
        return cut.mean((2, 4)).flatten(1)


Samples = TokenisedSplit | PictureSplit
"""N full samples, in memory or not: a phase's are loaded to be trained on, those tested on pass by in batches."""


def _rows_of(class_ids: NDArray[np.int64], classes: list[int], at_most: int) -> NDArray[np.int64]:
    """In their order."""
    rows = np.flatnonzero(np.isin(class_ids, classes)).astype(np.int64)
    if not at_most:
        return rows
    firsts = [rows[class_ids[rows] == class_id][:at_most] for class_id in np.unique(class_ids[rows])]
    return np.sort(np.concatenate(firsts)) if firsts else rows


def tokenise(split: Split, tokenizer: Tokenizer, *, patch_px: int, max_text_tokens: int = 40) -> PictureSplit:
    """Turn texts into tokens, and pictures into patches when they are needed.

    Args:
        patch_px: side of a patch; the pictures' sides must be multiples of it.
        max_text_tokens: longer texts lose their end; ``[SEP]`` stays last.
    """
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(split.texts)]
    return PictureSplit(
        split,
        [np.array(_shortened(ids, max_text_tokens), dtype=np.int64) for ids in encoded],
        patch_px,
        num_cut=sum(len(ids) > max_text_tokens for ids in encoded),
        longest=max(map(len, encoded), default=0),
    )


def _shortened(ids: list[int], most: int) -> list[int]:
    return ids if len(ids) <= most else [*ids[: most - 1], ids[-1]]
