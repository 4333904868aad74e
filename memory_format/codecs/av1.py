"""AV1 still pictures: out of an AVIF file, and back into one.

An AVIF file of one picture is some 280 bytes of boxes around two OBUs (open bitstream units): a sequence header, which
says the size and the kind of pixels, and a frame. The boxes repeat what the sequence header says, which is the same for
every picture but for its size. So a payload is

    height, width (uint16 each) | the sequence header's choices (uint16) | the content of the frame OBU

Sources: AV1 Bitstream & Decoding Process Specification, sections 5.3-5.5; AVIF 1.1; ISO/IEC 14496-12 and 23008-12.
"""

from __future__ import annotations

from memory_format.errors import FormatError

_HEAD_BYTES = 6
_SEQUENCE_HEADER = 0x0A  # OBU header: type 1, with a size field
_FRAME = 0x32  # type 6, with a size field
_TEMPORAL_DELIMITER = b"\x12\x00"
_BT601 = (2, 5, 6)  # matrix coefficients: unspecified, which decoders take for it, and its two names


def av1_size(payload: bytes) -> tuple[int, int]:
    """``(H, W)`` of a payload."""
    if len(payload) <= _HEAD_BYTES:
        raise _no_picture("it is too short")
    height, width = int.from_bytes(payload[0:2], "little"), int.from_bytes(payload[2:4], "little")
    if not (height and width):
        raise _no_picture(f"it says {height}x{width} px")
    return height, width


def payload_of_avif(file: bytes) -> bytes:
    """The payload of an AVIF file of one picture, as libavif writes it.

    Raises:
        FormatError: the picture is not a reduced still picture of 8-bit YCbCr at 4:2:0 or 4:4:4.
    """
    at = file.index(b"mdat")
    obus = file[at + 4 : at - 4 + int.from_bytes(file[at - 4 : at], "big")].removeprefix(_TEMPORAL_DELIMITER)
    sequence, obus = _take_obu(obus, _SEQUENCE_HEADER)
    frame, rest = _take_obu(obus, _FRAME)
    if rest:
        raise _no_picture("it has more than one frame")
    return _head_of(sequence) + frame


def avif_of_payload(payload: bytes) -> bytes:
    """The AVIF file of a payload."""
    height, width = av1_size(payload)
    choices = int.from_bytes(payload[4:6], "little")
    full_colour, level, position = choices & 1, choices >> 1 & 31, choices >> 12 & 3
    profile = full_colour  # 0 holds 4:2:0, 1 holds 4:4:4
    obus = b"".join(
        (_obu(_SEQUENCE_HEADER, _sequence_header(height, width, choices)), _obu(_FRAME, payload[_HEAD_BYTES:]))
    )
    kind = bytes((0x81, profile << 5 | level, 0 if full_colour else 0x0C | position, 0))
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    properties = _box(b"ispe", bytes(4), size) + _box(b"pixi", bytes(4), b"\3\x08\x08\x08") + _box(b"av1C", kind)
    places = _box(b"ipma", bytes(4), b"\0\0\0\1\0\1\3\1\2\x83")
    start = len(_FTYP) + _META_BYTES + 8
    location = b"\x44\0\0\1\0\1\0\0\0\1" + start.to_bytes(4, "big") + len(obus).to_bytes(4, "big")
    meta = _box(
        b"meta",
        bytes(4),
        _HANDLER,
        _box(b"iloc", bytes(4), location),
        _ITEMS,
        _box(b"iprp", _box(b"ipco", properties), places),
    )
    return b"".join((_FTYP, meta, _box(b"mdat", obus)))


def _head_of(sequence: bytes) -> bytes:
    """Size and choices of a sequence header (section 5.5.1 with ``reduced_still_picture_header``, and 5.5.2)."""
    value, left = int.from_bytes(sequence, "big"), 8 * len(sequence)

    def take(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise _no_picture("its sequence header ends too early")
        return (value >> left) & ((1 << count) - 1)

    profile, still, reduced, level = take(3), take(1), take(1), take(5)
    if not (still and reduced and profile in (0, 1)):
        raise _no_picture("it is not a still picture of profile 0 or 1")
    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    tools = take(6)
    if take(1) or (profile == 0 and take(1)):
        raise _no_picture("only 8 bits a channel in colour are taken")
    if take(1) and take(24) & 0xFF not in _BT601:
        raise _no_picture("only BT.601 YCbCr is taken")
    full_range = take(1)
    position = take(2) if profile == 0 else 0
    separate_chroma, film_grain = take(1), take(1)
    if film_grain:
        raise _no_picture("film grain is not taken")
    choices = profile | level << 1 | tools << 6 | position << 12 | full_range << 14 | separate_chroma << 15
    return b"".join(number.to_bytes(2, "little") for number in (height, width, choices))


def _sequence_header(height: int, width: int, choices: int) -> bytes:
    """Inverse of :func:`_head_of`."""
    full_colour = choices & 1
    fields = [
        (full_colour, 3),
        (3, 2),  # a still picture with a reduced header
        (choices >> 1 & 31, 5),
        (15, 4),
        (15, 4),
        (width - 1, 16),
        (height - 1, 16),
        (choices >> 6 & 63, 6),
        (0, 1 if full_colour else 2),  # 8 bits, not monochrome
        (0, 1),  # colours not described
        (choices >> 14 & 1, 1),
        (choices >> 12 & 3, 0 if full_colour else 2),
        (choices >> 15, 1),
        (0, 1),  # no film grain
        (1, 1),  # the end
    ]
    value, num_bits = 0, 0
    for number, count in fields:
        value, num_bits = value << count | (number if count else 0), num_bits + count
    num_bytes = (num_bits + 7) // 8
    return (value << (8 * num_bytes - num_bits)).to_bytes(num_bytes, "big")


def _take_obu(data: bytes, header: int) -> tuple[bytes, bytes]:
    """Content of the first OBU, which must begin with ``header``, and what follows it."""
    size, place = 0, 1
    for shift in range(0, 28, 7):
        if place >= len(data) or data[0] != header:
            break
        size |= (data[place] & 0x7F) << shift
        place += 1
        if data[place - 1] < 0x80:
            return data[place : place + size], data[place + size :]
    raise _no_picture("a sequence header and one frame are expected")


def _obu(header: int, content: bytes) -> bytes:
    size, out = len(content), bytearray((header,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + content


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return (len(content) + 8).to_bytes(4, "big") + kind + content


def _no_picture(why: str) -> FormatError:
    return FormatError(f"the payload is not an AV1 still picture: {why}", code="invalid_payload")


_FTYP = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
_HANDLER = _box(b"hdlr", bytes(8), b"pict", bytes(13)) + _box(b"pitm", bytes(4), b"\0\1")
_ITEMS = _box(b"iinf", bytes(4), b"\0\1", _box(b"infe", b"\2\0\0\0\0\1\0\0av01\0"))
_META_BYTES = 12 + len(_HANDLER) + 30 + len(_ITEMS) + 8 + 8 + 20 + 16 + 12 + 22
