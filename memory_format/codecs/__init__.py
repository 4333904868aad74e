"""Patch codecs by name and by number.

Importing this package registers them with numcodecs, so that
``numcodecs.get_codec({"id": "em_webp"})`` works. Where it is not imported, entry points name them (pyproject.toml).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numcodecs.registry

from memory_format.arguments import is_one_of, is_settings
from memory_format.codecs.avif import AVIF
from memory_format.codecs.base import PatchCodec
from memory_format.codecs.jpeg import JPEG
from memory_format.codecs.raw_zstd import RawZstd
from memory_format.codecs.retired import RETIRED
from memory_format.codecs.webp import WebP, WebPLossless
from memory_format.errors import FormatError

CODECS: tuple[type[PatchCodec], ...] = (RawZstd, WebP, WebPLossless, AVIF, JPEG)

_BY_ID: Final = {codec.codec_id: codec for codec in (*CODECS, *RETIRED)}
_BY_NUMBER: Final = {codec.number: codec for codec in (*CODECS, *RETIRED)}

for _codec in CODECS:
    numcodecs.registry.register_codec(_codec)


def codec_class(codec_id: str) -> type[PatchCodec]:
    """The codec of that id, also one that is no longer read here.

    Raises:
        FormatError: no codec has that id.
    """
    if not is_one_of(codec_id, tuple(_BY_ID)):
        known = ", ".join(sorted(codec.codec_id for codec in CODECS))
        raise FormatError(f"unknown codec {codec_id!r:.100}; known: {known}", code="unknown_codec")
    return _BY_ID[codec_id]


def codec_by_number(number: int) -> type[PatchCodec]:
    """The codec whose byte in a segment is ``number``, also one that is no longer read here.

    Raises:
        FormatError: no codec has that number.
    """
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise FormatError(f"unknown codec number {number}; written by a newer version?", code="unknown_codec") from None


def codec_available(codec_id: str) -> bool:
    """Whether :func:`require_codec` takes it: its libraries are installed, and it is not one of earlier versions."""
    return codec_class(codec_id).missing_library() is None


def require_codec(codec_id: str) -> None:
    """Refuse a codec that cannot work here. Call it before a batch is decoded, or a run begins.

    Raises:
        FormatError: no codec has that id.
        MissingLibraryError: it needs a library that is not installed, or an earlier version; the message says which.
    """
    codec_class(codec_id).require()


def make_codec(config: Mapping[str, Any]) -> PatchCodec:
    """A codec from its numcodecs configuration, ``{"id": "em_webp", "quality": 30}``.

    Raises:
        FormatError: no configuration, an unknown id, or a setting that the codec does not take.
        MissingLibraryError: as :func:`require_codec`.
    """
    if not is_settings(config):
        raise FormatError(f'a codec is {{"id": "em_webp", ...}}, got {config!r:.100}', code="unknown_codec")
    settings = dict(config)
    codec = codec_class(str(settings.pop("id", "")))
    try:
        return codec(**settings)
    except TypeError as error:
        raise FormatError(f"{codec.codec_id}: {error}", code="unknown_codec") from None
