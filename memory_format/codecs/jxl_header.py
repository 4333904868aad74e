"""Headers of a JPEG XL codestream, as far as they say how much memory decoding takes.

Source: ISO/IEC 18181-1, annex B (fields), D (SizeHeader, ImageMetadata) and F (FrameHeader).
"""

from __future__ import annotations

from memory_format.errors import FormatError

_HEAD_BYTES = 48
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
# U32 distributions: what each of the four selectors adds, and the bits that follow it.
_SIZE = ((1, 9), (1, 13), (1, 18), (1, 30))


class _Bits:
    """Least significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data[:_HEAD_BYTES], "little")
        self.at = 0

    def take(self, count: int) -> int:
        value = (self._value >> self.at) & ((1 << count) - 1)
        self.at += count
        return value

    def u32(self, *choices: tuple[int, int]) -> int:
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


def jxl_size(payload: bytes) -> tuple[int, int]:
    """``(H, W)`` of a bare codestream.

    Raises:
        FormatError: it is none.
    """
    return _read_size(_start(payload))


def check_still_picture(payload: bytes) -> None:
    """Refuse what could decode to more than one picture of its stated size: anything but a single whole frame of
    three 8-bit channels, without a preview, animation, extra channels or layers.

    Raises:
        FormatError: the payload is such.
    """
    bits = _start(payload)
    _read_size(bits)
    in_xyb = _read_metadata(bits)
    if bits.take(1):  # a frame header of defaults alone: one regular VarDCT frame
        return
    frame_type, modular, flags = bits.take(2), bits.take(1), _u64(bits)
    # Noise (1) needs no memory; patches (2), splines (16) and other frames' pixels (32) may.
    if frame_type or flags & (2 | 16 | 32):
        raise _refused("a frame that is not regular")
    if not in_xyb and bits.take(1):
        raise _refused("YCbCr")
    bits.take(2)  # upsampling, to the stated size
    if modular:
        bits.take(2)
    elif in_xyb:
        bits.take(6)
    if bits.take(2):
        raise _refused("several passes")
    if bits.take(1) or bits.take(2) or not bits.take(1):
        raise _refused("a frame that is cropped, blended or not the last")


def _start(payload: bytes) -> _Bits:
    if len(payload) < 12 or payload[:2] != b"\xff\x0a":
        raise FormatError("the payload is not a bare JPEG XL codestream", code="invalid_payload")
    return _Bits(bytes(payload[2 : 2 + _HEAD_BYTES]))


def _read_size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if small else bits.u32(*_SIZE)
    ratio = bits.take(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio - 1]
        return height, height * numerator // denominator
    return height, 8 * (bits.take(5) + 1) if small else bits.u32(*_SIZE)


def _read_metadata(bits: _Bits) -> bool:
    """Whether pixels are coded in XYB."""
    if bits.take(1):
        _skip_transform(bits)
        return True
    if bits.take(1):
        raise _refused("orientation, preview or animation")
    if bits.take(1) or bits.u32((8, 0), (10, 0), (12, 0), (1, 6)) != 8:
        raise _refused("samples that are not 8-bit integers")
    bits.take(1)
    if bits.take(2):
        raise _refused("extra channels")
    in_xyb = bool(bits.take(1))
    if not bits.take(1):
        raise _refused("colours that are not sRGB")
    if _u64(bits):
        raise _refused("extensions")
    _skip_transform(bits)
    return in_xyb


def _skip_transform(bits: _Bits) -> None:
    if not bits.take(1):
        raise _refused("a colour transform of its own")
    bits.at += -bits.at % 8  # the frame begins at a byte


def _u64(bits: _Bits) -> int:
    """As far as its first 12 bits (annex B.2.4)."""
    selector = bits.take(2)
    if selector == 3:
        raise _refused("flags of a newer version")
    return 0 if selector == 0 else 1 + bits.take(4) if selector == 1 else 17 + bits.take(8)


def _refused(what: str) -> FormatError:
    return FormatError(f"the JPEG XL payload has {what}; one plain frame is taken", code="invalid_payload")
