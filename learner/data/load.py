"""The data set that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from learner.data.assemble import BadPictures, Listing, assemble
from learner.data.base import DataError, MultimodalData
from learner.data.emoji import load_emoji
from learner.data.folder import list_folder
from learner.data.food101 import list_food101
from learner.data.hub import list_hub
from learner.data.imagenet_r import list_imagenet_r
from learner.data.settings import DataConfig, DataName

LISTINGS: Mapping[DataName, Callable[[DataConfig], Listing]] = {
    "imagenet-r": list_imagenet_r,
    "food101": list_food101,
    "folder": list_folder,
    "hub": list_hub,
}
"""Data sets of pictures in files: each says what it holds, :func:`~learner.data.assemble.assemble` does the rest."""


def load_data(
    config: DataConfig,
    *,
    patch_px: int,
    directory: Path | str | None = None,
    bad_pictures: BadPictures | None = None,
) -> MultimodalData:
    """The data set of a configuration; pictures in files stay there until they are needed.

    Args:
        bad_pictures: in place of the configuration's.

    Raises:
        DataError: it is not there or cannot be used; the message says where to get it, or which file and line is wrong.
        FetchError: a package that MM-Emoji-R is built from cannot be fetched.
    """
    check_size(config.image_size, patch_px)
    if config.name == "emoji":
        try:
            return load_emoji(
                size=config.image_size,
                num_classes=config.num_classes or None,
                train_per_class=config.train_per_class or None,
                test_per_class=config.test_per_class or None,
                scenes=config.scenes,
                texts=config.texts,
                directory=directory,
            )
        except ValueError as error:
            raise DataError(str(error)) from error
    return assemble(
        LISTINGS[config.name](config),
        config,
        patch_px=patch_px,
        bad_pictures=bad_pictures or config.bad_pictures,
        directory=directory,
    )


def check_size(image_size: int, patch_px: int) -> None:
    """Check that pictures of a size divide into patches.

    Raises:
        DataError: they do not.
    """
    if image_size < patch_px or image_size % patch_px:
        lower = image_size // patch_px * patch_px
        nearest = f"{lower} or {lower + patch_px}" if lower else f"{patch_px}"
        raise DataError(
            f"data.image_size must be a multiple of the patches' side (backbone.patch_px), {image_size} px are no "
            f"multiple of {patch_px} px: take {nearest}"
        )
