"""Where a model runs, and in which precision."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "on", "off"]
"""Whether to compute in bfloat16; ``auto``: where the hardware has it."""


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(device: torch.device, setting: Precision) -> bool:
    """Whether to autocast to bfloat16: ``auto`` = where the hardware multiplies in it."""
    if setting != "auto":
        return setting == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
