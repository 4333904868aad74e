"""Settings of the model, and the rates at which its parts are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from learner.ranges import within

BackboneKind = Literal["parts", "small", "pretrained", "timm", "callable"]
HeadKind = Literal["cosine", "linear"]
Precision = Literal["auto", "on", "off"]
"""Whether to compute in bfloat16; ``auto``: where the hardware has it."""


@dataclass(frozen=True)
class BackboneConfig:
    """The model.

    Attributes:
        kind: ``parts``: DINOv2-S blocks + MiniLM words; ``small``: random weights; ``pretrained``: a checkpoint of
            ViLT, CLIP or SigLIP; ``timm``: a ViT of timm; ``callable``: a model of your own.
        name: hub id or folder for ``pretrained``; timm's name for ``timm``; for ``callable`` where the function is that
            makes the model, as ``package.module:function``.
        weights: of ``timm``: ``pretrained``, those of its hub; ``random``; else a file.
        blocks: which DINOv2 blocks ``parts`` takes.
        patch_px: side of a patch in pixels; that of a ``pretrained`` or ``timm`` backbone is its own unless it is set.
        hidden_size: width of ``small``; its heads are 64 wide.
        num_layers: layers of ``small``.
    """

    kind: BackboneKind = "parts"
    name: str = "dandelin/vilt-b32-mlm"
    weights: str = "pretrained"
    blocks: tuple[int, ...] = tuple(range(12))
    patch_px: int = 16
    hidden_size: int = 192
    num_layers: int = 6

    def __post_init__(self) -> None:
        if not self.blocks or not all(type(block) is int and 0 <= block < 12 for block in self.blocks):
            raise ValueError(f"blocks must name some of DINOv2's 0..11, as in [0, 1, 2], got {list(self.blocks)}")
        within(self, 1, 1024, "patch_px", "num_layers")
        within(self, 1, 2**14, "hidden_size")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of its {self.num_heads} heads (one for each 64), got "
                f"{self.hidden_size}"
            )

    @property
    def num_heads(self) -> int:
        """Of ``small``."""
        return max(1, self.hidden_size // 64)


@dataclass(frozen=True)
class Rates:
    """Highest learning rates of a model's parts.

    Attributes:
        backbone: of the whole backbone, where that is trained.
        ssf: of its scales and shifts, where those are.
        head: of the head.
        added: of what a reference adds to a frozen backbone.
    """

    backbone: float
    ssf: float
    head: float
    added: float
