"""The quality of a phase's pictures by the rule of MRDC.

Wang et al., "Memory Replay with Data Compression for Continual Learning", ICLR 2022, section 4.2: the lower the
quality, the more of a class's samples fit into its share, and the more their features are changed. Volumes tell how
much. That of a set is what the unit features of its samples span: the square root of their Gram matrix's determinant.
R compares a set as it comes back from the codec with the same samples as they were::

    R = (volume coded / volume as they were) ** 2

The lowest quality is taken whose R is within :data:`TOLERANCE` of 1. As in its authors' code, logarithms of volumes are
averaged over the classes. One sample alone always has the volume 1: where no more fit, the lowest quality is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from learner import world
from learner.memory.exemplars import Stored, exemplar_features, record_of
from learner.memory.selection import selection_order
from learner.memory.settings import MRDC_QUALITIES, MemoryConfig
from learner.model.classifier import Classifier
from memory_format import PatchCodec, Record, make_codec

TOLERANCE: Final = 0.5
"""Their code prints volumes and leaves the choice to its reader: this figure is not from there."""


def at_chosen_quality(
    model: Classifier,
    class_ids: NDArray[np.int64],
    stored: Stored,
    class_features: Mapping[int, NDArray[np.floating]],
    *,
    memory: MemoryConfig,
    share_bytes: float,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The settings' codec with the quality that the rule takes; the highest where none will do. Ranks share out the
    classes whose samples are encoded for that.

    Args:
        class_ids: ``(N,)``.
        class_features: as :func:`~learner.memory.exemplars.make_exemplars` has them.
        share_bytes: what a class may keep.
        rng: as what is then stored is selected with: the same samples come first.
    """
    features = model.features(stored.kept)
    orders = []
    for class_id in dict.fromkeys(class_ids.tolist()):
        members = np.flatnonzero(class_ids == class_id)
        order = selection_order(features[members].numpy(), class_features[class_id], memory.selection, rng)
        orders.append(members[order])
    codecs = [{**memory.codec, "quality": quality} for quality in MRDC_QUALITIES]
    for codec in codecs[:-1]:
        sets = world.each(orders, partial(_fitting, stored, codec=make_codec(codec), share_bytes=share_bytes))
        plain = [features[order[: len(records)]] for order, records in zip(orders, sets, strict=True)]
        coded = [exemplar_features(model, records, stored.patch_px) for records in sets]
        if abs(ratio(plain, coded) - 1) < TOLERANCE:
            return codec
    return codecs[-1]


def ratio(plain: Sequence[Tensor], coded: Sequence[Tensor]) -> float:
    """R of the same samples as they were and as they come back, ``(K, D)`` features a class.

    Classes whose samples span no volume are left out; where all do, none of them says anything: infinity.
    """
    pairs = [(_log_volume(one), _log_volume(other)) for one, other in zip(plain, coded, strict=True)]
    gaps = [after - before for before, after in pairs if np.isfinite(before) and np.isfinite(after)]
    return float(np.exp(2 * np.mean(gaps))) if gaps else float("inf")


def _log_volume(features: Tensor) -> float:
    unit = F.normalize(features.double(), dim=1)
    values = torch.linalg.eigvalsh(unit @ unit.T)
    # Zero but for rounding, as torch.linalg.matrix_rank tells it: more samples than dimensions, say.
    if values[0] <= len(values) * torch.finfo(values.dtype).eps * values[-1]:
        return float("-inf")
    return float(values.log().sum()) / 2


def _fitting(stored: Stored, order: NDArray[np.int64], *, codec: PatchCodec, share_bytes: float) -> list[Record]:
    """The samples that fill a class's share, one at least."""
    records: list[Record] = []
    used = 0
    for sample in order.tolist():
        record = record_of(stored, sample, codec=codec, class_id=0)
        used += record.charge
        if records and used > share_bytes:
            break
        records.append(record)
    return records
