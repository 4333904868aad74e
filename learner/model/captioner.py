"""``learner caption``: texts for a folder of pictures, by any image-to-text model of transformers.

The paper captions ImageNet-R with InstructBLIP (Dai et al., arXiv 2305.06500).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from client.prefetch import Prefetched
from learner.data.base import DataError
from learner.data.caption_table import CaptionsWriter
from learner.data.pictures import PICTURE_SUFFIXES, PictureError, picture_in, pictures_below, read_picture
from learner.model.classifier import best_device

log = logging.getLogger(__name__)

# Larger than any captioning model looks at: JPEGs above it are decoded at a part of their size.
_DECODE_SIDE = 512

CaptionBatch = Callable[[Sequence[Image.Image]], list[str]]


class Captioner:
    """A model with its processor.

    Args:
        name: hub id or local folder of an image-text-to-text model (InstructBLIP, BLIP, BLIP-2, GIT, LLaVA, ...).
        prompt: what the model is asked; BLIP and GIT go on from it, and it is left out of the captions.
        max_new_tokens: longest caption.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        DataError: there is no such model, it is of another kind, or no such device.
    """

    def __init__(self, name: str, *, prompt: str, max_new_tokens: int = 40, device: str = "auto") -> None:
        # Imported here: a heavy library that no other command needs.
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.device = _device(device)
        # Half precision where the hardware computes in it; weights of 7 billion parameters then take 16 GB.
        dtype = torch.bfloat16 if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
        try:
            self._processor: Any = AutoProcessor.from_pretrained(name)
            model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"no captioning model at {name!r} ({error}). It must be a local folder or a hub id of an "
                "image-text-to-text model, such as Salesforce/instructblip-vicuna-7b or "
                "Salesforce/blip-image-captioning-base; without a network, copy its folder here"
            ) from error
        if not model.config.is_encoder_decoder and getattr(self._processor, "tokenizer", None):
            # What a decoder goes on from must be the end of the text, also where pictures take more or fewer tokens.
            self._processor.tokenizer.padding_side = "left"
        self._model: Any = model.to(self.device).eval()
        self._dtype = dtype
        self._prompt = prompt
        self._max_new_tokens = max_new_tokens

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A caption for each picture, by greedy search: the same each time."""
        text = self._asked()
        batch = self._processor(images=list(images), text=[text] * len(images), return_tensors="pt", padding=True)
        inputs = {
            name: value.to(self.device, self._dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in batch.items()
        }
        written = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1)
        asked = inputs.get("input_ids")
        # Decoder-only models repeat what they were given.
        if (
            asked is not None
            and written.shape[1] >= asked.shape[1]
            and torch.equal(written[:, : asked.shape[1]], asked)
        ):
            written = written[:, asked.shape[1] :]
        return [self._without_prompt(text) for text in self._processor.batch_decode(written, skip_special_tokens=True)]

    def _asked(self) -> str:
        if not getattr(self._processor, "chat_template", None):
            return self._prompt
        said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self._prompt}]}]
        return str(self._processor.apply_chat_template(said, add_generation_prompt=True))

    def _without_prompt(self, text: str) -> str:
        caption, prompt = " ".join(text.split()), " ".join(self._prompt.split())
        # Tokenizers change case.
        return caption[len(prompt) :].strip() if caption.lower().startswith(prompt.lower()) else caption


def caption_folder(
    folder: Path, out: Path, caption: Callable[[], CaptionBatch], *, batch_size: int = 8
) -> tuple[int, int, list[str]]:
    """Write a caption for each picture below ``folder`` that ``out`` has none for.

    Each batch is on disk before the next begins: a run that was cut off goes on where it stopped.

    Args:
        caption: makes what captions a batch; called only if there is something to do.

    Returns:
        How many captions were there, how many were written, and what was wrong with the pictures left out.

    Raises:
        DataError: there is no such folder, or no picture in it; or as
            :class:`~learner.data.caption_table.CaptionsWriter`.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    names = pictures_below(folder)
    if not names:
        raise DataError(f"no pictures below {folder} ({', '.join(sorted(PICTURE_SUFFIXES))})")
    with CaptionsWriter(out, frozenset(names)) as writer:
        missing = [name for name in names if name not in writer.done]
        found, written = len(names) - len(missing), 0
        bad: list[str] = []
        if missing:
            describe = caption()
            # The console is where this is watched: hours, with a large model.
            with tqdm(total=len(names), initial=found, unit="picture", desc="captions", disable=None) as bar:
                for batch in _batches(folder, missing, batch_size):
                    images = {name: image for name, image in batch.items() if isinstance(image, Image.Image)}
                    bad += [str(error) for error in batch.values() if isinstance(error, PictureError)]
                    if images:
                        writer.append(zip(images, describe(list(images.values())), strict=True))
                    written += len(images)
                    bar.update(len(batch))
    return found, written, bad


def _batches(folder: Path, names: Sequence[str], size: int) -> Iterator[dict[str, Image.Image | PictureError]]:
    """Decoded pictures by name, the next batch on its way while one is in use."""
    read = functools.partial(_picture, folder)
    with Prefetched(read, names, ahead=2 * size, threads=4, name="pictures") as pictures:
        for start in range(0, len(names), size):
            yield {name: next(pictures) for name in names[start : start + size]}


def _picture(folder: Path, name: str) -> Image.Image | PictureError:
    try:
        return read_picture(picture_in(folder, name), about=_DECODE_SIDE)
    except PictureError as error:
        return error


def _device(name: str) -> torch.device:
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"there is no device {name!r} ({str(error).splitlines()[0]})") from error
    return device
