"""A frozen ViT and a linear classifier: what it sees of a picture is computed once."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from learner.model.vit import vit_attention
from memory_format.in_place import FILL

_TOGETHER: Final = 16
"""Pictures that run through the ViT at a time."""


class Frozen:
    """A ViT that is not trained, with what it has computed: exact, as pictures are not augmented.

    Patches that an exemplar does not have are no tokens. Models share it: it is none of their modules, since Avalanche
    copies models.

    Args:
        vit: with a class token and square patches.
        keep: share of a picture's patches that :meth:`mask` keeps, those that the class token attends to most.
    """

    def __init__(self, vit: VisionTransformer, keep: float) -> None:
        self._vit = vit.eval().requires_grad_(False)
        self._keep = keep
        trained: Any = vit.pretrained_cfg
        self._mean, self._std = (torch.tensor(trained[name])[:, None, None] for name in ("mean", "std"))
        self._grey = torch.tensor(FILL["grey"], dtype=torch.uint8)[:, None, None]
        self._features: dict[tuple[bool, bytes], Tensor] = {}
        self._masks: dict[bytes, NDArray[np.bool_]] = {}
        self.patch_px: int = vit.patch_embed.patch_size[0]
        self.dim = 2 * vit.embed_dim

    def __deepcopy__(self, _: object) -> Frozen:
        return self

    def mask(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which patches of a picture ``(H, W, 3)`` matter, ``(h, w)``: what ``Recorder(masked=...)`` asks for."""
        key = pixels.tobytes()
        if key not in self._masks:
            scores = vit_attention(self._vit, [pixels])[0]
            best = scores.flatten().topk(max(1, round(self._keep * scores.numel()))).indices
            found = torch.zeros(scores.numel(), dtype=torch.bool).index_fill_(0, best, True)
            self._masks[key] = found.reshape(scores.shape).numpy()
        return self._masks[key]

    def features(self, pictures: Tensor, *, attends: bool) -> Tensor:
        """``(B, 3, H, W)`` uint8 -> ``(B, dim)``, the class token's last state beside the mean of the patches'.

        Args:
            attends: of whole pictures, look at the patches of :meth:`mask` alone.
        """
        keys = [(attends, picture.numpy().tobytes()) for picture in pictures]
        missing = {key: row for row, key in enumerate(keys) if key not in self._features}
        kept = {key: self._kept(pictures[row], attends).nonzero()[:, 0] for key, row in missing.items()}
        for count in {len(places) for places in kept.values()}:
            group = [key for key, places in kept.items() if len(places) == count]
            for start in range(0, len(group), _TOGETHER):
                part = group[start : start + _TOGETHER]
                found = self._run(pictures[[missing[key] for key in part]], torch.stack([kept[key] for key in part]))
                self._features |= {key: one.clone() for key, one in zip(part, found, strict=True)}
        return torch.stack([self._features[key] for key in keys])

    def _kept(self, picture: Tensor, attends: bool) -> Tensor:
        """Which patches are seen, ``(h * w,)`` bool; of a picture that is all grey the first."""
        side = self.patch_px
        grey = (picture == self._grey).all(0).unfold(0, side, side).unfold(1, side, side).flatten(2).all(2).flatten()
        if attends and not grey.any():
            return torch.from_numpy(self.mask(picture.permute(1, 2, 0).contiguous().numpy())).flatten()
        return ~grey if not grey.all() else torch.arange(len(grey)) == 0

    @torch.no_grad()
    def _run(self, pictures: Tensor, places: Tensor) -> Tensor:
        vit = self._vit
        assert vit.pos_embed is not None
        assert vit.cls_token is not None
        patches = vit.patch_embed((pictures / 255 - self._mean) / self._std) + vit.pos_embed[:, 1:]
        patches = patches.gather(1, places[:, :, None].expand(-1, -1, patches.shape[2]))
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(patches), -1, -1)
        states = vit.norm(vit.blocks(torch.cat([first, patches], 1)))
        return torch.cat([states[:, 0], states[:, 1:].mean(1)], 1)


class Probe(nn.Module):
    """A linear classifier of a frozen ViT's features, which have length 1.

    Args:
        attends: as :meth:`Frozen.features` has it, in training and in tests.
    """

    def __init__(self, frozen: Frozen, num_classes: int, *, attends: bool) -> None:
        super().__init__()
        self._frozen = frozen
        self._attends = attends
        self.classifier = nn.Linear(frozen.dim, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        scores: Tensor = self.classifier(F.normalize(self._frozen.features(pictures, attends=self._attends), dim=1))
        return scores
