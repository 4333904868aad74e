"""Pictures in class folders, without a table: ``cat/1.jpg``, or ``train/cat/1.jpg`` and ``test/cat/9.jpg``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from learner.data.assemble import Listing, Sample
from learner.data.base import DataError
from learner.data.caption_table import read_captions
from learner.data.names import picture_in, pictures_below

__all__ = ["list_class_folders", "split_of"]

LAYOUT = (
    "pictures lie in a folder for each class (cat/1.jpg), or in such folders of each split (train/cat/1.jpg, "
    "test/cat/9.jpg)"
)
_UNUSED = frozenset({"val", "valid", "validation", "dev"})


def split_of(text: str) -> str | None:
    """``train``, ``test``, ``test-NAME`` or ``validation`` from what people call a split; None: it is none of these."""
    name = text.lower().replace("_", "-")
    if name in _UNUSED:
        return "validation"
    return name if name in ("train", "test") or name.startswith("test-") else None


def list_class_folders(root: Path, captions: str = "") -> Listing:
    """Every picture below a folder, its class the folder that it lies in.

    Folders that are called as splits are splits where a ``train`` is among them. Of folders within a class's folder,
    all pictures are of that class. A validation split is left aside.

    Args:
        captions: file with a text for some of the pictures; empty: ``captions.csv`` in the folder, where it is there.

    Raises:
        DataError: there are no pictures, or none lies in a class's folder; or the captions file is of another shape.
    """
    names = pictures_below(root)
    if not names:
        raise DataError(f"there are no pictures in {root}, and no labels.csv: {LAYOUT}")
    tops = {name.split("/")[0] for name in names if "/" in name}
    nested = {name.split("/")[0] for name in names if name.count("/") > 1}
    strange = sorted(top for top in tops if split_of(top) is None)
    by_split = any(split_of(top) == "train" for top in nested)
    if by_split and strange:
        # A class may be called train too, and has its pictures right in its folder.
        if not any(name.count("/") == 1 and split_of(name.split("/")[0]) == "train" for name in names):
            raise DataError(
                f"{root} has folders of splits (train) and {strange[0]!r} beside them: rename it to train, test, "
                "test-NAME or val, or move it"
            )
        by_split = False
    depth = 2 if by_split else 1
    placed = [name for name in names if name.count("/") >= depth]
    outside = [name for name in names if name.count("/") < depth]
    if not placed:
        raise DataError(f"the pictures of {root} are in no class's folder (such as {names[0]}): {LAYOUT}")
    splits = {top: split_of(top) if by_split else "" for top in tops}
    texts, about_texts = _texts(root, captions, names)
    samples = [
        Sample(
            picture=picture_in(root, name),
            key=name,
            text=texts.get(name, ""),
            label=name.split("/")[depth - 1],
            where=name,
            split=splits[name.split("/")[0]] or "",
        )
        for name in placed
    ]
    count = Counter(sample.split for sample in samples)
    used = [sample for sample in samples if sample.split != "validation"]
    notes = [f"classes are the folders that pictures lie in{', below those of the splits' if by_split else ''}"]
    if by_split and not any(split.startswith("test") for split in count):
        # Without this, nothing would be tested on.
        used = [replace(sample, split="") for sample in used]
    if count["validation"]:
        notes.append(f"{count['validation']} pictures of a validation split are left aside")
    if outside:
        notes.append(f"{len(outside)} pictures lie in no class's folder and are left out (such as {outside[0]})")
    return Listing(root.resolve().name, used, notes=(*notes, *about_texts))


def _texts(root: Path, captions: str, names: list[str]) -> tuple[dict[str, str], list[str]]:
    file = Path(captions).expanduser() if captions else root / "captions.csv"
    if not file.is_file():
        if captions:
            raise DataError(f"there is no captions file {file} (data.captions)")
        return {}, ["there are no texts: the pictures alone are learned from (a captions.csv may hold some)"]
    texts = read_captions(file, set(names))
    found = sum(name in texts for name in names)
    return texts, [f"{found} of {len(names)} pictures have a text in {file.name}"]
