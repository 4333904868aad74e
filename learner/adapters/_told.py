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
    version: int | None
    """Of the tensor at that time; each write to it makes another one, but those by way of ``.data`` or of NumPy. None:
    it counts none, as one that was made in inference mode."""
    values: NDArray[np.float32]
    """``(places, ...)``."""

    @classmethod
    def of(cls, tensor: Tensor) -> Told:
        """As it is now."""
        values = np.array(tensor.detach().cpu().numpy(), dtype=np.float32)
        return cls(tensor, _version_of(tensor), values)

    def is_of(self, tensor: Tensor) -> bool:
        """Whether nothing was written since, as far as the tensor says."""
        return tensor is self.tensor and self.version is not None and _version_of(tensor) == self.version

    def differs(self, other: Told) -> NDArray[np.bool_]:
        """Places, ``(places,)``; to the bit, as NaN is no other than NaN."""
        if self.values.shape != other.values.shape:
            return np.ones(len(other.values), dtype=np.bool_)
        bits = (told.values.reshape(len(told.values), -1).view(np.uint32) for told in (self, other))
        return np.asarray(np.not_equal(*bits).any(axis=1))


def _version_of(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version
