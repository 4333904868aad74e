"""From a picture to a record that can be pushed, in one call.

It is here and not in ``memory_format`` because it opens files, and the record format does no I/O.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from client.rgb import fit, upright_rgb, why_unreadable
from memory_format import FormatError, Layout, PatchCodec, Record, Text, image_to_patches, make_record
from memory_format import Picture as PicturePart
from memory_format.arguments import flat_whole, is_number, whole
from memory_format.bitmask import BoolArray
from memory_format.canvas import size_is_allowed
from memory_format.make import RecordFields

Picture: TypeAlias = Image.Image | NDArray[np.uint8] | str | os.PathLike[str]
"""What a picture may be given as."""

Tokenizer: TypeAlias = Callable[[str], Any]
"""Text -> token ids, or -> a mapping with ``input_ids``, as Hugging Face's tokenizers answer."""


class ImageFields(RecordFields, total=False):
    """What is passed on to :func:`memory_format.make_record` as it is."""

    codec: PatchCodec | None
    layout: Layout | None


def record_from_image(
    image: Picture,
    *,
    class_id: int,
    attention: ArrayLike | None = None,
    keep_mask: ArrayLike | None = None,
    keep: float = 0.27,
    patch_px: int = 16,
    short_side: int | None = None,
    text: str | None = None,
    tokenizer: Tokenizer | None = None,
    keep_tokens: ArrayLike | None = None,
    user_json: dict[str, Any] | None = None,
    **others: Unpack[ImageFields],
) -> Record:
    """One exemplar of a picture, and of its caption: the patches that matter, encoded.

    Which patches are kept is said by ``attention`` or by ``keep_mask``; without either all of them are. A grid
    ``(h, w)`` of either kind is laid over the whole picture, which is resized to ``h * patch_px`` by ``w * patch_px``
    pixels: to what a model saw that has so many patches. Otherwise the picture keeps its size, or gets that of
    ``short_side``, and its sides are resized down to whole patches, by less than a patch. Nothing is cropped.

    Args:
        image: a picture of Pillow, ``(H, W, 3)`` uint8 RGB (``(H, W)`` grey and ``(H, W, 4)`` RGBA will do), or the
            path of a file. It is turned upright (EXIF) and put on white where it is transparent.
        attention: ``(h, w)`` scores, one a patch, or an ``(H, W)`` map with one for each pixel of the upright picture,
            of which each patch gets the mean. The patches with the highest scores are kept.
        keep_mask: ``(h, w)`` bool, True = kept.
        keep: share of the patches that ``attention`` keeps, over 0 and at most 1; at least one stays. Of equal scores
            the first ones, row by row, are kept.
        patch_px: P, side of a patch in pixels, 1..255.
        short_side: resize the picture so that its short side has about so many pixels, its long one at most 1333/800
            of that. Not with a grid, which says the size by itself.
        text: its caption. With a tokenizer its token ids are stored, two bytes each, or four where one is over 65535.
            None is left out, and ``tokenizer.decode(record.token_ids)`` is the text again. Without one the text itself
            is stored, as ``user_json["text"]``: it can be read again, batches have no tokens of it, and
            ``repair_text`` does not exchange it.
        tokenizer: called with the text, answers with its ids, ``(T,)``, or with a mapping that has them as
            ``input_ids``, as the tokenizers of ``transformers`` do.
        keep_tokens: ``(T,)`` bool, which of the tokens to store; default all.
        user_json, others: as in :func:`memory_format.make_record`: ``codec``, ``phase``, ``learner_id``, ``score``,
            ``rank``, ``layout``, ``arrays``, ``array_dtypes``, ``fields``.

    Raises:
        FormatError: an argument is not so, or the picture cannot be read; the message says what would be right.
    """
    picture = picture_part(
        image, attention=attention, keep_mask=keep_mask, keep=keep, patch_px=patch_px, short_side=short_side
    )
    ids, positions, length, user_json = _text(text, tokenizer, keep_tokens, user_json)
    return make_record(
        class_id=class_id,
        patches=picture.patches,
        keep_mask=picture.keep_mask,
        token_ids=ids,
        token_positions=positions,
        text_length=length,
        user_json=user_json,
        **others,
    )


def picture_part(
    image: Picture,
    *,
    attention: ArrayLike | None = None,
    keep_mask: ArrayLike | None = None,
    keep: float = 0.27,
    patch_px: int = 16,
    short_side: int | None = None,
) -> PicturePart:
    """A picture for :func:`memory_format.make_record_of_parts`, with arguments as :func:`record_from_image` has them.

    Raises:
        FormatError: as there.
    """
    if attention is not None and keep_mask is not None:
        raise FormatError("attention or keep_mask, not both: each says by itself which patches are kept")
    whole("patch_px", patch_px, 1, 255)
    picture = read_rgb(image)
    if keep_mask is not None:
        mask = _mask(keep_mask, picture)
        pixels = _on_grid(picture, mask.shape, patch_px, short_side)
    elif attention is not None:
        pixels, mask = _attended(picture, _scores(attention), keep, patch_px, short_side)
    else:
        pixels = _fitted(picture, patch_px, short_side)
        mask = np.ones((pixels.height // patch_px, pixels.width // patch_px), dtype=bool)
    return PicturePart(image_to_patches(np.asarray(pixels), patch_px)[mask.reshape(-1)], mask)


def text_part(role: str, text: str, tokenizer: Tokenizer, *, keep_tokens: ArrayLike | None = None) -> Text:
    """What somebody says, for :func:`memory_format.make_record_of_parts`.

    Args:
        role: who says it: ``system``, ``user``, ``assistant``, ``tool`` or another name of 1..32 of A-Z a-z 0-9 . _ -.
        tokenizer, keep_tokens: as in :func:`record_from_image`.

    Raises:
        FormatError: as there.
    """
    ids, positions, length, _ = _text(text, tokenizer, keep_tokens, None)
    return Text(role, ids, positions, length)


def read_rgb(image: Picture) -> Image.Image:
    """A picture as RGB, upright, transparency on white.

    Raises:
        FormatError: there is no such file, it cannot be decoded, or it is no picture.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            raise FormatError(
                f"a picture as an array is (H, W, 3) uint8, values 0..255, got {image.shape} {image.dtype}"
            )
        if not image.size:
            raise FormatError(f"a picture has at least one pixel, got {image.shape}")
        return upright_rgb(Image.fromarray(image))
    if isinstance(image, Image.Image):
        name, opened = "the picture", image
    elif isinstance(image, str | os.PathLike):
        name = str(Path(image))
        try:
            opened = Image.open(image)
        except Exception as error:
            raise FormatError(f"{name}: {why_unreadable(error)}") from error
    else:
        raise FormatError(
            f"image must be a picture of Pillow, an (H, W, 3) uint8 array or a path, got {type(image).__name__}"
        )
    try:
        # Whatever is raised for damaged files: Pillow names no closed list.
        return upright_rgb(opened)
    except Exception as error:
        raise FormatError(f"{name}: {why_unreadable(error)}") from error
    finally:
        if opened is not image:
            opened.close()


def _mask(keep_mask: ArrayLike, picture: Image.Image) -> BoolArray:
    mask = _array("keep_mask", keep_mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise FormatError(
            f"keep_mask must be (h, w) bool, got {mask.shape} {mask.dtype}; scores are for attention=",
            code="mask_mismatch",
        )
    if mask.shape == (picture.height, picture.width):
        raise FormatError(
            f"keep_mask must be a cell for each patch, got {mask.shape}, the picture's pixels; "
            "a map of pixels can be given as attention=",
            code="mask_mismatch",
        )
    return mask


def _scores(attention: ArrayLike) -> NDArray[np.float64]:
    scores = _array("attention", attention)
    if scores.ndim != 2 or not scores.size or scores.dtype.kind not in "fiub":
        raise FormatError(
            f"attention must be (h, w) scores of patches or an (H, W) map of pixels, got {scores.shape} {scores.dtype}"
            + ("; give one picture's at a time" if scores.ndim > 2 else ""),
            code="mask_mismatch",
        )
    if not np.isfinite(scores).all():
        raise FormatError("attention must be finite: it has NaN or infinite scores", code="mask_mismatch")
    return scores.astype(np.float64)


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    """Also of a tensor, where it is on the CPU and takes no gradient."""
    try:
        return np.asarray(values)
    # torch has TypeError for tensors on a GPU, RuntimeError for those that take a gradient.
    except (TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{name} cannot be made a numpy array: {error}", code="mask_mismatch") from None


def _attended(
    picture: Image.Image, scores: NDArray[np.float64], keep: float, patch_px: int, short_side: int | None
) -> tuple[Image.Image, BoolArray]:
    if not (is_number(keep, 0, 1) and keep > 0):
        raise FormatError(f"keep is the share of patches to keep, over 0 and at most 1, got {keep!r:.100}")
    if scores.shape == (picture.height, picture.width):
        pixels = _fitted(picture, patch_px, short_side)
        # BOX weighs every pixel by its share of the cell: the mean, also where cells do not end between pixels.
        size = (pixels.width // patch_px, pixels.height // patch_px)
        cells = Image.fromarray(scores.astype(np.float32)).resize(size, Image.Resampling.BOX)
        scores = np.asarray(cells, dtype=np.float64)
    else:
        pixels = _on_grid(picture, scores.shape, patch_px, short_side)
    best = np.argsort(-scores, axis=None, kind="stable")[: max(1, round(keep * scores.size))]
    mask = np.zeros(scores.shape, dtype=bool)
    mask.flat[best] = True
    return pixels, mask


def _on_grid(picture: Image.Image, grid: tuple[int, ...], patch_px: int, short_side: int | None) -> Image.Image:
    h, w = grid
    if short_side is not None:
        raise FormatError(
            f"short_side does not go with a grid: {h}x{w} patches of {patch_px} px say the picture's size already"
        )
    if not (1 <= h <= 255 and 1 <= w <= 255 and size_is_allowed(h * patch_px, w * patch_px)):
        raise FormatError(
            f"a grid of {h}x{w} patches of {patch_px} px makes no picture that can be stored; a map of pixels must "
            f"have the upright picture's size, {picture.height}x{picture.width}",
            code="mask_mismatch",
        )
    size = (w * patch_px, h * patch_px)
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def _fitted(picture: Image.Image, patch_px: int, short_side: int | None) -> Image.Image:
    if short_side is not None:
        whole("short_side", short_side, patch_px, 4096)
    return fit(picture, short_side=short_side, patch_px=patch_px)


def _text(
    text: str | None, tokenizer: Tokenizer | None, keep_tokens: ArrayLike | None, user_json: dict[str, Any] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, dict[str, Any] | None]:
    """Kept ids ``(T,)``, their places, tokens of the whole text, and the user's JSON with the text where it has no
    tokens."""
    none = np.zeros(0, dtype=np.int64)
    if text is not None and not isinstance(text, str):
        raise FormatError(f"text must be a str, got {type(text).__name__}")
    if keep_tokens is not None and (text is None or tokenizer is None):
        raise FormatError("keep_tokens says which of a tokenizer's tokens to store: give text and tokenizer too")
    if text is None:
        return none, none, 0, user_json
    if tokenizer is None:
        if user_json is not None and "text" in user_json:
            raise FormatError("user_json has a text already; give a tokenizer, or leave one of the two out")
        return none, none, 0, {**(user_json or {}), "text": text}
    ids = _ids(text, tokenizer)
    if keep_tokens is None:
        return ids, np.arange(len(ids)), len(ids), user_json
    kept = _array("keep_tokens", keep_tokens)
    if kept.shape != ids.shape or kept.dtype != np.bool_:
        raise FormatError(
            f"keep_tokens must be ({len(ids)},) bool, one for each token of the text, got {kept.shape} {kept.dtype}",
            code="mask_mismatch",
        )
    return ids[kept], np.flatnonzero(kept), len(ids), user_json


def _ids(text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    if not callable(tokenizer):
        raise FormatError(
            "tokenizer must be callable, text -> ids, as those of transformers are; of one of the library tokenizers "
            "give lambda text: t.encode(text).ids"
        )
    called = tokenizer(text)
    ids = called.get("input_ids") if isinstance(called, Mapping) else called
    if ids is None:
        raise FormatError(f"the tokenizer gave a mapping without input_ids: {called!r:.100}")
    found = _array("the tokenizer's ids", ids)
    # With return_tensors, tokenizers answer as for a batch of one.
    return flat_whole("the tokenizer's ids", found[0] if found.ndim == 2 and len(found) == 1 else found)
