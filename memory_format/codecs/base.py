"""What a patch codec is: numcodecs for ``(H, W, 3)`` uint8 images that tell their size undecoded."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ndarray_copy
from numpy.typing import NDArray

from memory_format.canvas import ByteArray, check_size
from memory_format.errors import FormatError, MissingLibraryError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class PatchCodec(Codec):  # type: ignore[misc]  # numcodecs ships no type information
    """An image codec usable as a ``numcodecs`` filter and as the coder of a record's kept patches.

    Payloads have no container: whatever is the same in every payload of a codec is left out, and put back
    before a library sees it.

    Subclasses are frozen dataclasses, whose fields are their configuration. They set ``codec_id`` (numcodecs' name),
    ``number`` (the byte written in segments; append-only) and ``lossless``.

    Raises:
        FormatError: a setting is none that the codec takes.
        MissingLibraryError: as :meth:`require`.
    """

    codec_id: ClassVar[str]
    number: ClassVar[int]
    lossless: ClassVar[bool]
    block_px: ClassVar[int] = 1
    """Side of the blocks that an image is padded to before it is coded, where it pays to share one between patches. It
    does not where colours have half the resolution, as in WebP: those of neighbours mix."""

    def __post_init__(self) -> None:
        self.require()

    @classmethod
    def missing_library(cls) -> str | None:
        """What must be installed before this codec encodes or decodes; None where nothing is missing.

        Sizes are read and checked without any library.
        """
        return None

    @classmethod
    def require(cls) -> None:
        """Find out now, not in the middle of a training run, whether this codec works here.

        Raises:
            MissingLibraryError: it needs a library that is not installed; the message says which.
        """
        if cls.missing_library():
            raise cls.unavailable()

    @classmethod
    def unavailable(cls) -> MissingLibraryError:
        """The error of a codec that does not work here."""
        return MissingLibraryError(f"codec {cls.codec_id} needs {cls.missing_library()}", codec=cls.codec_id)

    @abstractmethod
    def encode_image(self, image: ByteArray) -> bytes:
        """``(H, W, 3)`` uint8 -> payload."""

    @classmethod
    @abstractmethod
    def read_size(cls, payload: bytes) -> tuple[int, int]:
        """``(H, W)`` from the payload's header, without decoding it.

        Raises:
            FormatError: the payload is not of this codec.
        """

    @classmethod
    @abstractmethod
    def decode_image(cls, payload: bytes) -> ByteArray:
        """Payload -> ``(H, W, 3)`` uint8. Unless the size is known to be sane, call :meth:`read_checked`."""

    @classmethod
    def check_size(cls, payload: bytes, expected: tuple[int, int]) -> None:
        """Refuse a payload whose header says another size than ``expected`` ``(H, W)``.

        Raises:
            FormatError: the payload is not of this codec, or its size differs.
        """
        size = cls.read_size(payload)
        if size != expected:
            raise FormatError(
                f"the payload holds an image of {size[0]}x{size[1]} px, its mask calls for {expected[0]}x{expected[1]}",
                code="payload_mismatch",
                found=list(size),
                expected=list(expected),
            )

    @classmethod
    def read_checked(cls, payload: bytes, expected: tuple[int, int]) -> ByteArray:
        """Decode after :meth:`check_size`: what is allocated is bounded by ``expected``.

        Raises:
            FormatError: the payload is damaged, or of another size.
            MissingLibraryError: as :meth:`require`.
        """
        cls.check_size(payload, expected)
        image = cls.decode_image(payload)
        if image.shape != (*expected, 3):
            raise FormatError(f"decoded to {image.shape}, expected {(*expected, 3)}", code="payload_mismatch")
        return image

    # The numcodecs interface: so that any Zarr user can decode a payload by the codec id alone.
    def get_config(self) -> dict[str, Any]:
        return {"id": self.codec_id, **asdict(cast("DataclassInstance", self))}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{name: value for name, value in config.items() if name != "id"})

    def encode(self, buf: Any) -> bytes:
        return self.encode_image(check_image(np.asarray(buf)))

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        payload = ensure_bytes(buf)
        size = self.read_size(payload)
        check_size(*size, "invalid_payload")
        image = self.read_checked(payload, size)
        return image if out is None else ndarray_copy(image, out)


def check_image(image: NDArray[Any]) -> ByteArray:
    """What every codec takes, contiguous: ``(H, W, 3)`` uint8, sides of 1 to ``MAX_SIDE_PX``, at most ``MAX_PIXELS``.

    Raises:
        FormatError: it is something else.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise FormatError(f"expected a (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
    height, width, _ = image.shape
    check_size(height, width, "invalid_record")
    return np.ascontiguousarray(image)
