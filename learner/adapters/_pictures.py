"""Samples as continual-learning libraries have them, as records, and from records again the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from client import ReplayBatch, record_from_image
from memory_format import FormatError, PatchCodec, Record
from memory_format.extras import ArrayDtype, decode_extras, make_extras

Pixels: TypeAlias = NDArray[np.uint8]
"""``(H, W, 3)`` RGB."""

Masked: TypeAlias = Callable[[Pixels], Any]
"""A picture -> which of its patches matter: ``(h, w)`` bool, a cell for each patch; or scores, ``(h, w)`` or
``(H, W)``, of which the best share is kept."""

Form = Literal["pil", "array", "uint8", "float"]

_SIZE = "size"


@dataclass(frozen=True)
class Kind:
    """How a library has its pictures."""

    form: Form
    """``pil``; ``array``: ``(H, W, C)`` uint8, or ``(H, W)`` of one channel; ``uint8``: a tensor ``(C, H, W)``;
    ``float``: the same with values in [0, 1], which are kept in steps of 1/255."""
    channels: int = 3

    @classmethod
    def of(cls, sample: Any) -> Kind:
        """That of a sample.

        Raises:
            FormatError: it is no picture.
        """
        if isinstance(sample, Image.Image) and sample.mode in ("L", "RGB"):
            return cls("pil", len(sample.getbands()))
        if (
            isinstance(sample, np.ndarray)
            and sample.dtype == np.uint8
            and sample.ndim > 1
            and sample.shape[2:] in ((), (3,))
        ):
            return cls("array", 3 if sample.ndim == 3 else 1)
        if isinstance(sample, torch.Tensor) and sample.ndim == 3 and sample.shape[0] in (1, 3):
            if sample.dtype == torch.uint8:
                return cls("uint8", sample.shape[0])
            if sample.is_floating_point():
                return cls("float", sample.shape[0])
        what = f"{tuple(sample.shape)} {sample.dtype}" if hasattr(sample, "dtype") else repr(sample)
        raise FormatError(
            "a picture of one or three channels is needed, of Pillow (L, RGB), as an (H, W, 3) uint8 array, or as a "
            f"(C, H, W) tensor, uint8 or float in [0, 1], got {what:.100}"
        )

    def pixels(self, sample: Any) -> Pixels:
        """Raises ``FormatError``: the sample is of another kind, or a float outside [0, 1]."""
        if (kind := Kind.of(sample)) != self:
            raise FormatError(f"the pictures are of kind {self}, and this one is {kind}")
        if isinstance(sample, torch.Tensor):
            values = sample.detach().cpu()
            if self.form == "float":
                if not (float(values.min()) >= 0 and float(values.max()) <= 1):
                    raise FormatError(
                        f"floats must lie in [0, 1], got {float(values.min()):g}..{float(values.max()):g}: "
                        "store pictures before they are normalised"
                    )
                values = (values * 255).round().to(torch.uint8)
            sample = values.permute(1, 2, 0).numpy()
        found = np.asarray(sample)
        if self.channels == 1:
            found = np.repeat(found.reshape(*found.shape[:2], 1), 3, axis=2)
        return np.ascontiguousarray(found)

    def sample(self, pixels: Pixels) -> Any:
        """A picture as the library had it; of one channel the first."""
        if self.form in ("uint8", "float"):
            tensor = torch.from_numpy(pixels).permute(2, 0, 1)[: self.channels].contiguous()
            return tensor.float().div_(255) if self.form == "float" else tensor
        found = pixels if self.channels == 3 else np.ascontiguousarray(pixels[..., 0])
        return Image.fromarray(found) if self.form == "pil" else found


@dataclass(frozen=True)
class Recorder:
    """Makes records of pictures.

    Args:
        codec: None = as :func:`memory_format.make_record` has it, which is lossy; ``WebPLossless()`` gives every pixel
            again.
        patch_px: side of a patch. A picture whose sides are no multiple of it is continued to one by its last row and
            column, which are cut off again.
        masked: which patches to keep; None = all of them.
        keep: the share that is kept where ``masked`` gives scores.
    """

    codec: PatchCodec | None = None
    patch_px: int = 16
    masked: Masked | None = None
    keep: float = 0.27

    def record(
        self,
        pixels: Pixels,
        *,
        class_id: int,
        phase: int = 0,
        rank: int = 0,
        arrays: dict[str, NDArray[Any]] | None = None,
    ) -> Record:
        """Raises ``FormatError``: what ``masked`` gave is no mask of this picture."""
        height, width = pixels.shape[:2]
        below, beside = -height % self.patch_px, -width % self.patch_px
        padded = np.pad(pixels, ((0, below), (0, beside), (0, 0)), mode="edge") if below or beside else pixels
        size = {_SIZE: [height, width]} if below or beside else None
        mask: dict[str, Any] = {}
        if self.masked is not None:
            found = np.asarray(self.masked(pixels))
            if found.dtype == np.bool_:
                mask["keep_mask"] = self._whole_grid(found, padded)
            else:
                mask |= {"attention": _map_of(found, padded, (height, width)), "keep": self.keep}
        return record_from_image(
            padded,
            class_id=class_id,
            patch_px=self.patch_px,
            user_json=size,
            codec=self.codec,
            phase=phase,
            rank=rank,
            arrays=arrays,
            array_dtypes=dict.fromkeys(arrays or {}, "float32"),
            **mask,
        )

    def _whole_grid(self, mask: NDArray[np.bool_], pixels: Pixels) -> NDArray[np.bool_]:
        grid = (pixels.shape[0] // self.patch_px, pixels.shape[1] // self.patch_px)
        if mask.shape != grid:
            raise FormatError(
                f"a mask needs a cell for each patch of {self.patch_px} px, {grid}, got {mask.shape}",
                code="mask_mismatch",
            )
        return mask


def again(record: Record, *, class_id: int, phase: int, arrays: dict[str, NDArray[Any]] | None) -> Record:
    """A record as it was stored, with these in place of what it had: its picture is not coded or masked once more."""
    dtypes: dict[str, ArrayDtype] = dict.fromkeys(arrays or {}, "float32")
    extras = replace(decode_extras(record.extras), arrays=make_extras(None, arrays, dtypes).arrays, revision=None)
    return replace(record, class_id=class_id, phase=phase, extras=extras.encode(), feature_flags=extras.feature_flags)


def name_of(pixels: Pixels) -> str:
    """Names a picture by its pixels."""
    return f"{pixels.shape}{hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()}"


def _map_of(scores: NDArray[Any], pixels: Pixels, size: tuple[int, int]) -> NDArray[Any]:
    """Scores as a map of the picture's pixels, so that the picture keeps its size whatever grid a model has."""
    if scores.ndim != 2 or not scores.size:
        raise FormatError(f"scores are (h, w), got {scores.shape}", code="mask_mismatch")
    rows = np.arange(size[0]) * scores.shape[0] // size[0]
    columns = np.arange(size[1]) * scores.shape[1] // size[1]
    found = scores[rows][:, columns]
    rest = ((0, pixels.shape[0] - size[0]), (0, pixels.shape[1] - size[1]))
    return np.pad(found, rest, mode="edge")


def pixels_of(batch: ReplayBatch) -> list[Pixels]:
    """The pictures of a batch, as large as they were; dropped patches are grey."""
    sizes = [(record.user_json() or {}).get(_SIZE) for record in batch.records]
    return [
        picture if size is None else picture[: size[0], : size[1]]
        for picture, size in zip(batch.images(), sizes, strict=True)
    ]
