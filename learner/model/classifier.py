"""The model of a run: a backbone and a head that grows with the classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from learner import abreast, world
from learner.model import ssf
from learner.model.attention_masks import AttentionRead, MaskConfig
from learner.model.backbones.base import Backbone
from learner.model.settings import HeadKind, Precision, Rates
from learner.model.tokenised import TokenisedSplit
from learner.model.tokens import Tokens

MOST_ABREAST = 4
"""Batches at once: with more, the parts of a step become so small that calls cost more than what they compute."""


class GrowingHead(nn.Module):
    """Features ``(B, D)`` -> logits ``(B, number of classes seen)``.

    Args:
        dim: D.
        kind: ``cosine`` compares directions, so that classes seen lately do not win by longer weights
            (Hou et al., CVPR 2019); ``linear`` is plain.
        scale: temperature of the cosine head; logits lie in [-scale, scale].
    """

    def __init__(self, dim: int, *, kind: HeadKind = "cosine", scale: float = 16.0) -> None:
        super().__init__()
        self.kind = kind
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(0, dim))
        self.bias = nn.Parameter(torch.empty(0))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def grow(self, new_weight: Tensor) -> None:
        """Add classes whose weights ``(n, D)`` start as given."""
        weight = torch.cat([self.weight.data, new_weight.detach().to(self.weight)])
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.cat([self.bias.data, self.bias.new_zeros(len(new_weight))]))

    def forward(self, features: Tensor) -> Tensor:
        if self.kind == "cosine":
            return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))
        return F.linear(features, self.weight, self.bias)


class Classifier(nn.Module):
    """Backbone and growing head; head index <-> class id in the order the classes came.

    It says what a phase trains and how scores come about; :mod:`learner.baselines` has others that answer otherwise.
    """

    def __init__(
        self, backbone: Backbone, device: torch.device, *, head: HeadKind = "linear", bf16: Precision = "auto"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = GrowingHead(backbone.feature_dim, kind=head)
        self.classes_seen: list[int] = []
        self.device = device
        self.bf16 = use_bf16(device, bf16)
        self.to(device)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A block around one forward pass, never more: until its end, torch 2.14.1 computes with the weights that it
        met first, whatever is loaded or learned meanwhile (findings/torch_autocast_old_weights.sh).
        """
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    @property
    def batch_size(self) -> int:
        """Samples of a forward pass without gradients: where a call costs little, padding is what costs."""
        return 32 if self.device.type == "cpu" else 256

    @property
    def abreast(self) -> int:
        """Batches that are computed at once."""
        return min(MOST_ABREAST, torch.get_num_threads()) if self.backbone.reentrant else 1

    def tune_by_ssf(self, last_layers: int = 0) -> int:
        """Freeze the backbone and put scales and shifts into it, or into its ``last_layers`` alone; how many parameters
        they have, and errors, as in :func:`learner.model.ssf.inject`."""
        number = ssf.inject(self.backbone, self.backbone.ssf_pattern(last_layers))
        self.round_frozen()
        return number

    def round_frozen(self) -> None:
        """Hold the blocks' frozen weights as autocast would round them in every pass: the same products for less."""
        if not self.bf16:
            return
        for layer in self.backbone.layers:
            for module in layer.modules():
                if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                    module.to(torch.bfloat16)

    def tune_later(self, last_layers: int) -> None:
        """Tune no more than the ``last_layers`` from now on, and what comes behind them; 0 = all that are tuned.

        Raises:
            ValueError: it has not so many.
        """
        if last_layers > len(self.backbone.layers):
            raise ValueError(f"phases cannot tune the last {last_layers} of {len(self.backbone.layers)} layers")
        if last_layers:
            frozen = self.backbone.layers[: len(self.backbone.layers) - last_layers]
            for layer in frozen:
                layer.requires_grad_(False)
            self.backbone.entry = len(frozen)  # type: ignore[assignment]

    def targets(self, class_ids: NDArray[np.int64]) -> Tensor:
        """Head indices of class ids."""
        place = {class_id: index for index, class_id in enumerate(self.classes_seen)}
        return torch.tensor([place[int(class_id)] for class_id in class_ids], device=self.device)

    def encode(self, tokens: Tokens) -> Tensor:
        """Features ``(B, F)`` for the head, of tokens on the model's device."""
        return self.backbone(tokens)  # type: ignore[no-any-return]

    def logits(self, tokens: Tokens) -> Tensor:
        """Scores ``(B, C)`` of the classes seen."""
        with self.autocast():
            features = self.encode(tokens.to(self.device))
        # In float32: in float16 torch 2.14.1 makes NaN of a zero vector's direction (findings/torch_normalize_half.sh).
        return self.head(features.float())  # type: ignore[no-any-return]

    def answer(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits ``(B, C)`` for the training's loss, and a loss of the model's own, summed over the samples."""
        return self.logits(tokens), torch.zeros((), device=self.device)

    def features(self, tokens: Tokens) -> Tensor:
        """Features ``(N, F)`` float32 on the CPU, without gradients."""

        def compute(part: Tokens) -> Tensor:
            with self.autocast():
                return self.encode(part.to(self.device))

        return self._of_all(compute, tokens)

    def states(self, tokens: Tokens) -> Tensor:
        """States ``(N, 1 + K, D)`` that enter the first tuned block of a ViLT: the class token's, and the patches'."""

        def compute(part: Tokens) -> Tensor:
            with self.autocast():
                states: Tensor = self.backbone.states(part.to(self.device))  # type: ignore[operator]
            return F.pad(states, (0, 0, 0, 1 + tokens.patches.shape[1] - states.shape[1]))

        return self._of_all(compute, tokens)

    def scores(self, tokens: Tokens) -> Tensor:
        """:meth:`logits` ``(N, C)`` on the CPU, without gradients."""
        return self._of_all(self.logits, tokens)

    @torch.no_grad()
    def _of_all(self, compute: Callable[[Tokens], Tensor], tokens: Tokens) -> Tensor:
        """What ``compute`` gives for each of any number of samples, float32 on the CPU; ranks share them out."""
        self.eval()

        def of_part(rows: Tensor, part: Tokens) -> tuple[Tensor, Tensor]:
            return rows, compute(part).float().cpu()

        own = abreast.each(of_part, world.mine(tokens.by_length(self.batch_size)), self.abreast)
        rows, values = zip(*world.of_all(own), strict=True)
        return torch.cat(values)[torch.cat(rows).argsort()]

    @torch.no_grad()
    def read(self, tokens: Tokens, mask: MaskConfig) -> Iterator[tuple[Tensor, Tokens, Tensor, AttentionRead]]:
        """This rank's batches, in any order: which rows they are, their tokens, their features ``(B, F)`` and what
        attention ``mask`` needs, without gradients."""
        self.eval()
        last_layers = mask.last_layers if mask.layers == "mean" else 1

        def of_part(rows: Tensor, part: Tokens) -> tuple[Tensor, Tokens, Tensor, AttentionRead]:
            batch = part.to(self.device)
            with self.autocast():
                features, read = self.backbone.read(batch, last_layers=last_layers, text=mask.text)
            return rows, batch, features.float(), read

        yield from abreast.each(of_part, world.mine(tokens.by_length(self.batch_size)), self.abreast)

    def add_classes(self, new: TokenisedSplit) -> None:
        """Grow the head by the classes of ``new``."""
        fresh = [c for c in dict.fromkeys(new.class_ids.tolist()) if c not in self.classes_seen]
        if self.head.kind == "cosine":
            # At their mean features: "imprinting" (Qi et al., CVPR 2018).
            features = F.normalize(self.features(new.tokens), dim=1)
            start = torch.stack([features[torch.from_numpy(new.class_ids == c)].mean(0) for c in fresh])
        else:
            # At zero: features share a large common part, so imprinted classes would outshout all others at first.
            # Drawn by torch.randn, a class's start would hang on how many there are (findings/torch_randn_longer.sh).
            start = torch.zeros(len(fresh), self.backbone.feature_dim)
        self.head.grow(start)
        self.classes_seen += fresh

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        """What a phase trains, for an optimiser: SSF where it is in place, else the whole backbone; and the head."""
        tuned = list(ssf.scale_shift_parameters(self.backbone))
        if tuned:
            backbone = {"params": tuned, "lr": rates.ssf, "weight_decay": 0.0}
        else:
            whole = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
            backbone = {"params": whole, "lr": rates.backbone}
        return [backbone, {"params": list(self.head.parameters()), "lr": rates.head}]

    def finish_phase(self, new: TokenisedSplit) -> None:
        """What is left to do with a phase's data once it has been trained on."""

    def tuned_state(self) -> dict[str, Any]:
        """What phases change beside the head, for a checkpoint."""
        return {"ssf": [parameter.detach().cpu() for parameter in ssf.scale_shift_parameters(self.backbone)]}

    def restore_tuned(self, saved: dict[str, Any]) -> None:
        """Inverse of :meth:`tuned_state`, in a model that no phase has changed."""
        for parameter, value in zip(ssf.scale_shift_parameters(self.backbone), saved["ssf"], strict=True):
            parameter.data.copy_(value)


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
