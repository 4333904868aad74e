"""Tensors of a library's that anybody may write to, and what the service was told of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class Told:
    """What the records have of a tensor."""

    tensor: Tensor
    version: int
    """Of the tensor at that time; each write to it makes another one."""
    values: NDArray[np.float32]
    """``(places, ...)``."""

    @classmethod
    def of(cls, tensor: Tensor) -> Told:
        """As it is now."""
        values = np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
        return cls(tensor, tensor._version, values)

    def is_of(self, tensor: Tensor) -> bool:
        """Whether nothing was written since."""
        return tensor is self.tensor and tensor._version == self.version

    def differs(self, other: Told) -> NDArray[np.bool_]:
        """Places, ``(places,)``; to the bit, as NaN is no other than NaN."""
        if self.values.shape != other.values.shape:
            return np.ones(len(other.values), dtype=np.bool_)
        bits = (told.values.reshape(len(told.values), -1).view(np.uint32) for told in (self, other))
        return np.asarray(np.not_equal(*bits).any(axis=1))
