"""What each codec and quality makes of each picture: bytes, PSNR, SSIM and seconds, in all the cores there are."""

from __future__ import annotations

import io
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity

from benchmarks.density.pictures import Sample
from memory_format import Record, image_to_patches, make_codec, make_record
from memory_format.codecs import codec_class
from memory_format.codecs.lossy import LossyCodec
from memory_format.machine import processors
from memory_format.quality import kept_psnr, search

MOST_PSNR_DB = 60.0
"""A picture that comes back exactly counts as this: infinity would drown the others in the mean."""

_SSIM_WINDOW_PX = 7  # scikit-image's default


@dataclass(frozen=True)
class Setting:
    """A codec's configuration, and what to call it: ``family`` is a curve of the chart, ``knob`` a point on it."""

    family: str
    knob: str
    codec: dict[str, Any] = field(hash=False)
    """``quality`` may be a target, in which case each record has a quality of its own."""

    @property
    def label(self) -> str:
        return f"{self.family}, {self.knob}" if self.knob else self.family


@dataclass(frozen=True)
class Score:
    """One picture with one setting at one keep ratio.

    Attributes:
        record_bytes: the exemplar's charge: header, masks, tokens and payload.
        full_bytes: the charge of the whole picture with the same caption, codec and quality.
        jpeg_bytes: the whole picture as JPEG of quality 95, and its caption in UTF-8.
        psnr_db: of all kept pixels and colours together, ``10 log10(255^2 / MSE)``.
        ssim: mean over windows of 7x7 pixels that lie inside one kept patch.
        pixel_bytes: of the kept patches.
    """

    record_bytes: int
    payload_bytes: int
    full_bytes: int
    jpeg_bytes: int
    psnr_db: float
    ssim: float
    pixel_bytes: int
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Result:
    """All pictures with one setting at one keep ratio."""

    setting: Setting
    keep_ratio: float
    scores: tuple[Score, ...]

    def mean(self, name: str) -> float:
        return float(np.mean([getattr(score, name) for score in self.scores]))

    def total(self, name: str) -> float:
        return float(np.sum([getattr(score, name) for score in self.scores]))

    @property
    def exact(self) -> bool:
        return all(score.psnr_db >= MOST_PSNR_DB for score in self.scores)

    @property
    def lowest_psnr_db(self) -> float:
        return min(score.psnr_db for score in self.scores)

    @property
    def per_jpeg(self) -> float:
        """Exemplars in the bytes of one full sample as JPEG: bytes of all over bytes of all, as a budget counts."""
        return self.total("jpeg_bytes") / self.total("record_bytes")

    @property
    def per_same_codec(self) -> float:
        """The same, of full samples in the same codec and quality."""
        return self.total("full_bytes") / self.total("record_bytes")

    @property
    def encode_mb_per_s(self) -> float:
        """Of kept pixels, in one thread."""
        return self.total("pixel_bytes") / 1e6 / self.total("encode_seconds")

    @property
    def decode_mb_per_s(self) -> float:
        return self.total("pixel_bytes") / 1e6 / self.total("decode_seconds")


def measure(samples: Sequence[Sample], settings: Sequence[Setting], tick: Callable[[], object]) -> list[Result]:
    """Results of each setting at each keep ratio of the samples, in that order.

    Args:
        tick: called after each sample.
    """
    scores: list[dict[tuple[int, float], Score]] = []
    # Spawned, because a fork would copy torch's threads in whatever state they are. An interruption is the parent's
    # affair: leaving the pool ends its processes.
    context = multiprocessing.get_context("spawn")
    processes = min(len(samples), processors())
    with context.Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for found in pool.imap(partial(_measure_one, settings=settings), samples):
            scores.append(found)
            tick()
    return [
        Result(setting, ratio, tuple(found[number, ratio] for found in scores))
        for number, setting in enumerate(settings)
        for ratio in samples[0].keep_masks
    ]


def exemplar(sample: Sample, keep_mask: NDArray[np.bool_], codec: dict[str, Any]) -> Record:
    """The record of a sample with the patches that a mask keeps."""
    picture = sample.picture
    return make_record(
        class_id=0,
        patches=image_to_patches(picture.image, picture.patch_px)[keep_mask.reshape(-1)],
        keep_mask=keep_mask,
        codec=make_codec(codec),
        token_ids=sample.token_ids,
    )


def full_bytes(sample: Sample, record: Record, codec: dict[str, Any]) -> int:
    """The charge of the whole sample in the codec and at the quality of a record of it.

    Where the quality was a target, that is the number that was found for the record: the same target for the whole
    picture would be another quality.
    """
    everything = np.ones(sample.picture.grid, dtype=bool)
    if isinstance(codec.get("quality"), dict):
        kind = codec_class(record.codec_id)
        assert issubclass(kind, LossyCodec)

        def reaches(number: int) -> bool:
            same = exemplar(sample, record.keep_mask, {**codec, "quality": number})
            return len(same.payload) >= len(record.payload)

        codec = {**codec, "quality": search(reaches, kind.lowest, kind.highest, smallest=True)}
    return exemplar(sample, everything, codec).charge


def _measure_one(sample: Sample, settings: Sequence[Setting]) -> dict[tuple[int, float], Score]:
    jpeg_bytes = len(_jpeg(sample.picture.image)) + len(sample.picture.caption.encode())
    found = {}
    for number, setting in enumerate(settings):
        whole = None
        for ratio, keep_mask in sample.keep_masks.items():
            started = time.perf_counter()
            record = exemplar(sample, keep_mask, setting.codec)
            encoded = time.perf_counter()
            decoded = record.patches()
            ended = time.perf_counter()
            if whole is None or isinstance(setting.codec.get("quality"), dict):
                whole = full_bytes(sample, record, setting.codec)
            kept = image_to_patches(sample.picture.image, sample.picture.patch_px)[keep_mask.reshape(-1)]
            found[number, ratio] = Score(
                record_bytes=record.charge,
                payload_bytes=len(record.payload),
                full_bytes=whole,
                jpeg_bytes=jpeg_bytes,
                psnr_db=psnr(kept, decoded),
                ssim=ssim(kept, decoded),
                pixel_bytes=kept.nbytes,
                encode_seconds=encoded - started,
                decode_seconds=ended - encoded,
            )
    return found


def psnr(kept: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """PSNR in dB over all values of two arrays of one shape, at most :data:`MOST_PSNR_DB`."""
    return min(MOST_PSNR_DB, kept_psnr(kept, decoded))


def ssim(kept: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """SSIM (Wang et al. 2004, scikit-image's defaults) of patches ``(K, P, P, 3)``, no window across two of them."""
    number, patch_px = kept.shape[:2]
    # One call for all patches: a call for each would take a hundred times as long.
    columns = [patches.reshape(number * patch_px, patch_px, 3) for patches in (kept, decoded)]
    _, values = structural_similarity(*columns, channel_axis=2, data_range=255, full=True)
    edge = _SSIM_WINDOW_PX // 2
    inside = values.reshape(number, patch_px, patch_px, 3)[:, edge : patch_px - edge, edge : patch_px - edge]
    return float(inside.mean())


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95)
    return out.getvalue()
