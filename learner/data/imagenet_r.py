"""MM-ImageNet-R: ImageNet-R (Hendrycks et al., arXiv 2006.16241) with a caption for each picture.

The captions of the paper were never released; ``learner caption`` writes some with the same model.
"""

from __future__ import annotations

import re
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.caption_table import about_missing, read_captions
from learner.data.pictures import Picture, PictureError, picture_in, pictures_below, read_picture
from learner.data.settings import DataConfig

_GET = (
    "get https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar (2 GB, 200 classes, 30,000 pictures), unpack it, "
    "and set data.path to its folder, which holds imagenet-r/<WordNet id>/<picture>.jpg"
)
_WNID = re.compile(r"n\d{8}")


def list_imagenet_r(config: DataConfig) -> Listing:
    """Every picture below ``<path>/<wnid>/`` with its caption; train and test are drawn by class, as the literature
    does (80 / 20).

    Raises:
        DataError: the folder or the captions file is not there or of another shape, or pictures have no caption.
    """
    if not config.path:
        raise DataError(f"data.path is not set: {_GET}")
    root = Path(config.path).expanduser()
    root = root / "imagenet-r" if (root / "imagenet-r").is_dir() else root
    folders = sorted(p for p in root.iterdir() if p.is_dir() and _WNID.fullmatch(p.name)) if root.is_dir() else []
    names = [f"{folder.name}/{name}" for folder in folders for name in pictures_below(folder) if "/" not in name]
    if not names:
        raise DataError(f"{root} is not ImageNet-R, it has no pictures in folders named by WordNet ids: {_GET}")
    file = Path(config.captions).expanduser() if config.captions else root / "captions.csv"
    write = f"`learner caption --images {root} --out {file}` writes it, or the rest of it"
    if not file.is_file():
        raise DataError(f"there is no captions file {file} (data.captions): {write}")
    # Some were written from the folder above.
    above = "imagenet-r/"
    written = read_captions(file, {*names, *(above + name for name in names)})
    captions = {key.removeprefix(above): text for key, text in written.items()}
    pictures = {name: picture_in(root, name) for name in names}
    missing = [name for name in names if name not in captions]
    if config.missing_texts == "error":
        # Those that cannot be read have none: what becomes of them is for data.bad_pictures to say. Of the others one
        # is enough, and no more are opened.
        lacking = next((name for name in missing if _readable(pictures[name])), None)
        missing = [] if lacking is None else sorted(missing, key=lacking.__ne__)
    mend = "" if file.suffix == ".json" else write  # which is not written, but read
    notes = about_missing(missing, len(names), str(file), config.missing_texts, mend)
    if unknown := [key for key in captions if key not in pictures]:
        notes += (f"{len(unknown)} rows of {file.name} name no picture that is there (such as {unknown[0]})",)
    left_out = set(missing if config.missing_texts == "skip" else ())
    samples = [
        Sample(
            picture=picture,
            key=picture.name,
            text=captions.get(name, ""),
            label=name.partition("/")[0],
            where=picture.name,
        )
        for name, picture in pictures.items()
        if name not in left_out
    ]
    return Listing("MM-ImageNet-R", samples, _names(root / "README.txt"), notes)


def _readable(picture: Picture) -> bool:
    try:
        read_picture(picture, about=1)
    except PictureError:
        return False
    return True


def _names(readme: Path) -> dict[str, str]:
    """Names of the classes, from ImageNet-R's own README where it is there: lines such as ``n01443537 goldfish``."""
    if not readme.is_file():
        return {}
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (re.fullmatch(rf"({_WNID.pattern})\s+(\S.*)", line.strip()) for line in lines)
    return {match[1]: match[2].replace("_", " ") for match in found if match}
