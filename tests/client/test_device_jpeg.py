"""Decoding onto a device gives the patches that decoding to numpy gives. On a CPU here; with a GPU, there too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from client import Buffer, ReplayBatch
from client.dataset import ReplayDataset
from client.device_jpeg import decode_patches
from memory_format import JPEG, FormatError, Record
from tests.client.samples import make, make_many

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:", "ignore:.*TorchCodec")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def smooth(number: int, **changes: object) -> Record:
    """A JPEG record whose pixels are a ramp: noise would tell decoders' roundings from each other."""
    plain = make(number)
    ramp = np.arange(8, dtype=np.uint8)[:, None, None] * 9 + np.arange(8, dtype=np.uint8)[None, :, None] * 7
    patches = np.stack([ramp + np.array([10 * place, 0, 50], np.uint8) for place in range(plain.num_kept)])
    return make(number, codec=JPEG(quality=90), patches=patches, **changes)


@pytest.mark.parametrize("device", DEVICES)
def test_patches_are_those_of_the_cpu(device: str) -> None:
    records = [smooth(number, layout="in_place" if number % 3 == 0 else "strip") for number in range(12)]
    assert {record.layout for record in records} == {"strip", "in_place"}
    expected = ReplayBatch.from_records(records)

    patches = decode_patches(records, torch.device(device))

    assert patches.device.type == device
    assert patches.shape == expected.patches.shape
    assert patches.dtype == torch.uint8
    difference = np.abs(patches.cpu().numpy().astype(int) - expected.patches.astype(int))
    assert difference.max() <= 3
    assert not patches.cpu().numpy()[~expected.patch_valid].any()


def test_a_data_set_decodes_onto_a_device(buffer: Buffer) -> None:
    buffer.push([smooth(number) for number in range(8)])
    (plain,) = ReplayDataset(buffer, 6, num_steps=1)
    (batch,) = ReplayDataset(buffer, 6, num_steps=1, decode_device="cpu")
    assert batch.keys() == plain.keys()
    assert (batch["patches"].int() - plain["patches"].int()).abs().max() <= 3
    for name in plain.keys() - {"patches"}:
        torch.testing.assert_close(batch[name], plain[name], rtol=0, atol=0)


def test_other_codecs_are_refused(buffer: Buffer) -> None:
    buffer.push(make_many(3))
    with pytest.raises(FormatError, match="only em_jpeg payloads decode onto a device, this batch has em_zstd"):
        next(iter(ReplayDataset(buffer, 3, num_steps=1, decode_device="cpu")))


def test_a_damaged_payload_is_said_to_be() -> None:
    record = smooth(3)
    other = smooth(2)
    assert record.canvas_size != other.canvas_size
    broken = type(record)(**{**vars(record), "payload": other.payload})
    with pytest.raises(FormatError, match="its mask calls for"):
        decode_patches([record, broken], torch.device("cpu"))


def test_without_pixels_nothing_is_decoded() -> None:
    record = make(1)
    broken = type(record)(**{**vars(record), "payload": b"damaged"})
    batch = ReplayBatch.from_records([broken], pixels=False)
    assert batch.patches.shape == (1, record.num_kept, 8, 8, 3)
    assert not batch.patches.any()
    with pytest.raises(FormatError):
        ReplayBatch.from_records([broken])
