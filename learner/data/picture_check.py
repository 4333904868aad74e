"""Whether pictures can be read: all are looked at before a run begins, and which were is remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
from tqdm.auto import tqdm

from client.files import write_atomically
from learner.data.fetch import data_dir
from learner.data.pictures import Picture, PictureError, read_picture


def unreadable(pictures: Mapping[str, Picture], name: str, directory: Path | str | None) -> dict[str, str]:
    """By key, what is wrong with each picture that cannot be read.

    All are decoded once, so that no run stops at one after hours. Those that are good are not decoded again as long as
    no file changes.

    Args:
        pictures: by key.
        name: of the data set, for the progress shown.
        directory: where is kept which pictures were looked at, see :func:`learner.data.fetch.data_dir`.
    """
    stamps = {key: picture.stamp() for key, picture in pictures.items()}
    # What one Pillow reads, another may not.
    seen = "\0".join([PIL.__version__, *sorted(stamps.values())])
    digest = hashlib.sha256(seen.encode(errors="surrogateescape")).hexdigest()[:16]
    path = data_dir(directory) / "built" / f"pictures-{digest}.json"
    known = _known(path)
    # Bad ones are looked at each time: what was wrong may lie outside of the file, in a permission or an installation.
    unsure = pictures if known is None else {key: pictures[key] for key, stamp in stamps.items() if stamp in known}
    if not unsure:
        return {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        # disable=None: no bar where the output is not a terminal.
        bar = tqdm(pool.map(_reason, unsure.values()), total=len(unsure), unit="picture", desc=name, disable=None)
        reasons = {key: reason for key, reason in zip(unsure, bar, strict=True) if reason}
    found = {stamps[key]: reason for key, reason in reasons.items()}
    if found != known:
        write_atomically(path, json.dumps(found).encode())
    return reasons


def _known(path: Path) -> dict[str, str] | None:
    """What was wrong with pictures, by their stamps, or None where they were not looked at."""
    try:
        known: dict[str, str] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return known


def _reason(picture: Picture) -> str | None:
    try:
        read_picture(picture, about=1)
    except PictureError as error:
        return str(error).removeprefix(f"{picture.name}: ")
    return None
