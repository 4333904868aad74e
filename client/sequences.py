"""Replay batches as vision-language models read them: kept patches and words of a sample in one sequence, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from client.pictures import FILL, colour_of


@dataclass(frozen=True, eq=False)
class Sequences:
    """B samples with M pictures between them, of ``h`` x ``w`` places each. N = length of the longest sequence.

    A dropped patch has no place in a sequence: an exemplar of a quarter of its patches is that much shorter.

    Attributes:
        pictures: ``(M, 3, H, W)`` uint8 RGB, all pictures of the batch; dropped patches are filled.
        num_places: ``h * w``.
        patch: ``(B, N)`` int64, which of the ``M * h * w`` places of all pictures stands there; -1 = none.
        token_ids: ``(B, N)`` int64; 0 where no word stands.
        token_role: ``(B, N)`` int64, who says the word (:data:`client.parts.ROLES`); 0 where no word stands.
        valid: ``(B, N)`` bool, False at padding, which is at the end.
    """

    pictures: Tensor
    num_places: int
    patch: Tensor
    token_ids: Tensor
    token_role: Tensor
    valid: Tensor

    @property
    def position_ids(self) -> Tensor:
        """``(B, N)``: 0, 1, 2 and so on."""
        return torch.arange(self.valid.shape[1], device=self.valid.device).expand(self.valid.shape)

    def embedded(self, words: Tensor, patches: Tensor) -> Tensor:
        """What a language model takes as ``inputs_embeds``, ``(B, N, D)``.

        Args:
            words: ``(B, N, D)``, embeddings of :attr:`token_ids`.
            patches: ``(M, h * w, D)``, features of :attr:`pictures`, in row-major order.

        Raises:
            ValueError: there are not as many features as places, or more: those of class tokens, say.
        """
        pictures = len(self.pictures)
        if patches.shape[:2] != (pictures, self.num_places):
            raise ValueError(
                f"features of {pictures} pictures are wanted, one for each of their {self.num_places} places, got "
                f"{tuple(patches.shape)}: without a class token, and as many as the picture has patches"
            )
        return torch.where((self.patch >= 0)[:, :, None], patches.flatten(0, 1)[self.patch.clamp(min=0)], words)


def sequences_of(batch: Mapping[str, Tensor], fill: Sequence[int] = FILL) -> Sequences:
    """The samples of a batch, of ``ReplayDataset`` and ``BufferDataset`` alike.

    Args:
        batch: B records; those of one picture and one text have the picture first.
        fill: the colour of dropped patches, three values 0..255.

    Raises:
        ValueError: the pictures have different sizes, or ``fill`` is no colour.
    """
    valid, token_valid = batch["patch_valid"], batch["token_valid"]
    picture, picture_at, role, grids = _parts(batch)
    there = grids.prod(-1) > 0
    sizes = torch.unique(grids[there], dim=0).tolist()
    if len(sizes) != 1:
        sides = ", ".join(f"{h}x{w}" for h, w in sizes)
        raise ValueError(f"the pictures of this batch have different sizes, grids of {sides}: take them row by row")
    (h, w), (rows, kept) = sizes[0], valid.nonzero(as_tuple=True)
    first = there.flatten().cumsum(0).reshape(there.shape) - 1  # number among all pictures of the batch
    place = torch.full_like(picture, -1)
    place[rows, kept] = first[rows, picture[rows, kept]] * (h * w) + batch["patch_positions"][rows, kept]

    # A picture stands before the first word that was not said before it.
    before = torch.cat([2 * picture_at.gather(1, picture), 2 * batch["token_positions"] + 1], dim=1)
    all_valid = torch.cat([valid, token_valid], dim=1)
    order = before.masked_fill(~all_valid, torch.iinfo(before.dtype).max).argsort(dim=1, stable=True)
    order = order[:, : int(all_valid.sum(1).max())]
    no_patch, no_word = torch.full_like(batch["token_ids"], -1), torch.zeros_like(place)

    def in_order(of_patches: Tensor, of_words: Tensor) -> Tensor:
        return torch.cat([of_patches, of_words], dim=1).gather(1, order)

    return Sequences(
        pictures=_pictures(batch, place[rows, kept], int(there.sum()), h, w, colour_of(fill)),
        num_places=h * w,
        patch=in_order(place, no_patch),
        token_ids=in_order(no_word, batch["token_ids"]),
        token_role=in_order(no_word, role),
        valid=all_valid.gather(1, order),
    )


def _parts(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whose picture each patch is, where pictures stand, words' roles, and pictures' grids ``(B, I, 2)``."""
    if "patch_picture" in batch:
        return batch["patch_picture"], batch["picture_at"], batch["token_role"], batch["picture_grid"]
    picture, role = torch.zeros_like(batch["patch_positions"]), torch.zeros_like(batch["token_ids"])
    return picture, picture.new_zeros((len(picture), 1)), role, batch["grid"][:, None]


def _pictures(
    batch: Mapping[str, Tensor], places: Tensor, number: int, h: int, w: int, colour: tuple[int, ...]
) -> Tensor:
    patches, side = batch["patches"], batch["patches"].shape[2]
    cells = torch.tensor(colour, dtype=torch.uint8, device=patches.device).repeat(number * h * w, side, side, 1)
    cells[places.to(patches.device)] = patches[batch["patch_valid"].to(patches.device)]
    pixels = cells.view(number, h, w, side, side, 3).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(number, 3, h * side, w * side)
