"""JPEG payloads decoded straight onto a torch device: on an NVIDIA GPU by nvJPEG, through torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from memory_format import JPEG, FormatError, MissingLibraryError, Record


def require_torchvision() -> None:
    """Raise where it is not installed.

    Raises:
        MissingLibraryError: as it says.
    """
    try:
        import torchvision.io  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError("decoding onto a device needs torchvision: pip install torchvision") from error


def decode_patches(records: Sequence[Record], device: torch.device) -> Tensor:
    """Kept patches ``(B, K, P, P, 3)`` uint8 on ``device``, padded with zeros as in :class:`client.batch.ReplayBatch`.

    nvJPEG rounds otherwise than the libraries that decode on a CPU: values may differ by a few levels.

    Raises:
        FormatError: a record has another codec than ``em_jpeg``, its payload is damaged, or patch sizes differ.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    others = sorted({record.codec_id for record in records} - {JPEG.codec_id})
    if others:
        raise FormatError(
            f"only {JPEG.codec_id} payloads decode onto a device, this batch has {', '.join(others)}; leave "
            "decode_device out, or store JPEG"
        )
    if any(record.num_pictures > 1 for record in records):
        raise FormatError("records of several pictures are decoded on the CPU: leave decode_device out")
    files = []
    for record in records:
        JPEG.check_size(record.payload, record.canvas_size)
        files.append(torch.frombuffer(bytearray(JPEG.file(record.payload)), dtype=torch.uint8))
    try:
        canvases = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        raise FormatError(f"a JPEG payload cannot be decoded: {error}", code="invalid_payload") from error
    side = records[0].patch_px
    most = max(record.num_kept for record in records)
    patches = torch.zeros((len(records), most, side, side, 3), dtype=torch.uint8, device=device)
    for row, (record, canvas) in enumerate(zip(records, canvases, strict=True)):
        if tuple(canvas.shape[1:]) != record.canvas_size:
            raise FormatError(f"decoded to {tuple(canvas.shape)}, not {record.canvas_size}", code="payload_mismatch")
        # (3, h P, w P) -> (h w, P, P, 3), cells in row-major order
        cells = canvas.unflatten(2, (-1, side)).unflatten(1, (-1, side)).permute(1, 3, 2, 4, 0).flatten(0, 1)
        if record.layout == "in_place":
            cells = cells[torch.from_numpy(record.keep_indices).to(device)]
        patches[row, : record.num_kept] = cells[: record.num_kept]
    return patches
