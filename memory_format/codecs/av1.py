"""AV1 still pictures, bare and in an AVIF file.

An AVIF file of one picture is some 280 bytes of boxes around two OBUs (open bitstream units): the sequence header,
which says the size and the kind of pixels, and the frame. All that the boxes say follows from the sequence header,
so a payload holds the OBUs alone.

Sources: AV1 Bitstream & Decoding Process Specification, sections 5.3-5.5; AVIF 1.1; ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory_format.errors import FormatError

_SEQUENCE_HEADER = 0x0A  # OBU header: type 1, with a size field
_FRAME = 0x32  # type 6, with a size field
_MOST_SEQUENCE_BYTES = 32


@dataclass(frozen=True)
class _Sequence:
    height: int
    width: int
    profile: int
    level: int
    subsampled: bool
    chroma_sample_position: int


class _Bits:
    """Most significant bit first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise _no_picture("its sequence header ends too early")
        return (self._value >> self._left) & ((1 << count) - 1)


def av1_size(payload: bytes) -> tuple[int, int]:
    """``(H, W)`` of a still picture's OBUs.

    Raises:
        FormatError: the payload is not a sequence header with ``reduced_still_picture_header`` and one frame.
    """
    # On the path of every push, so only as far as the size; the rest is looked at when the picture is decoded.
    _frame_at(payload)
    bits = int.from_bytes(payload[2:10], "big")
    width_bits, height_bits = (bits >> 50 & 15) + 1, (bits >> 46 & 15) + 1
    if bits >> 59 & 3 != 3:
        raise _no_picture("it is not a reduced still picture")
    width = (bits >> (46 - width_bits)) & ((1 << width_bits) - 1)
    height = (bits >> (46 - width_bits - height_bits)) & ((1 << height_bits) - 1)
    return height + 1, width + 1


def _frame_at(payload: bytes) -> int:
    """Where the frame OBU begins, which must fill the payload to its end."""
    if len(payload) < 12 or payload[0] != _SEQUENCE_HEADER or not 5 <= payload[1] <= _MOST_SEQUENCE_BYTES:
        raise _no_picture("it does not begin with a sequence header")
    frame_at = 2 + payload[1]
    size, place = 0, frame_at + 1
    for shift in (0, 7, 14, 21):
        if place >= len(payload):
            break
        size |= (payload[place] & 0x7F) << shift
        place += 1
        if payload[place - 1] < 0x80:
            if payload[frame_at] == _FRAME and place + size == len(payload):
                return frame_at
            break
    raise _no_picture("one whole frame must follow the sequence header")


def _sequence(payload: bytes) -> _Sequence:
    """The facts that boxes repeat (section 5.5.1, with ``reduced_still_picture_header``; 5.5.2)."""
    bits = _Bits(payload[2 : _frame_at(payload)])
    profile, still, reduced, level = bits.take(3), bits.take(1), bits.take(1), bits.take(5)
    if not (still and reduced and profile in (0, 1)):
        raise _no_picture("it is not a still picture of profile 0 or 1")
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    bits.take(6)  # tools: superblock size, intra filters, superres, cdef, restoration
    if bits.take(1) or (profile == 0 and bits.take(1)):
        raise _no_picture("only 8 bits a channel in colour are taken")
    if bits.take(1) and (bits.take(24) & 0xFF) == 0:
        raise _no_picture("only pixels in YCbCr are taken")
    bits.take(1)  # full or limited range: decoders see it for themselves
    position = bits.take(2) if profile == 0 else 0
    return _Sequence(height, width, profile, level, profile == 0, position)


def obus_of_avif(file: bytes) -> bytes:
    """The OBUs in an AVIF file of one picture, as libavif writes it."""
    at = file.index(b"mdat")
    obus = file[at + 4 : at - 4 + int.from_bytes(file[at - 4 : at], "big")]
    if obus[:2] == b"\x12\x00":  # a temporal delimiter, which says nothing
        obus = obus[2:]
    _sequence(obus)
    return obus


def avif_of_obus(payload: bytes) -> bytes:
    """An AVIF file around a still picture's OBUs.

    Raises:
        FormatError: as :func:`av1_size`, or it is not 8 bits a channel in colour.
    """
    sequence = _sequence(payload)
    kind = bytes(
        (
            0x81,
            sequence.profile << 5 | sequence.level,
            (0x0C if sequence.subsampled else 0) | sequence.chroma_sample_position,
            0,
        )
    )
    size = sequence.width.to_bytes(4, "big") + sequence.height.to_bytes(4, "big")
    properties = _box(b"ispe", bytes(4), size) + _box(b"pixi", bytes(4), b"\3\x08\x08\x08") + _box(b"av1C", kind)
    places = _box(b"ipma", bytes(4), b"\0\0\0\1\0\1\3\1\2\x83")
    start = len(_FTYP) + _META_BYTES + 8
    location = b"\x44\0\0\1\0\1\0\0\0\1" + start.to_bytes(4, "big") + len(payload).to_bytes(4, "big")
    meta = _box(
        b"meta",
        bytes(4),
        _HANDLER,
        _box(b"iloc", bytes(4), location),
        _ITEMS,
        _box(b"iprp", _box(b"ipco", properties), places),
    )
    return b"".join((_FTYP, meta, _box(b"mdat", payload)))


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def _no_picture(why: str) -> FormatError:
    return FormatError(f"the payload is not an AV1 still picture: {why}", code="invalid_payload")


_FTYP = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
_HANDLER = _box(b"hdlr", bytes(8), b"pict", bytes(13)) + _box(b"pitm", bytes(4), b"\0\1")
_ITEMS = _box(b"iinf", bytes(4), b"\0\1", _box(b"infe", b"\2\0\0\0\0\1\0\0av01\0"))
_META_BYTES = 12 + len(_HANDLER) + 30 + len(_ITEMS) + 8 + 8 + 20 + 16 + 12 + 22
