"""What a run leaves after each stage so that it can go on from there."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from client.files import DamagedFileError, write_atomically
from learner.model.classifier import Classifier, GrowingHead


def config_key(config: dict[str, Any]) -> str:
    """Short name of a configuration: runs with equal keys may share checkpoints."""
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=6).hexdigest()


def save(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of tensors and plain values, the whole of it or none.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    data = io.BytesIO()
    torch.save(state, data)
    write_atomically(path, data.getbuffer())


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one of the same configuration, else None.

    Raises:
        DamagedFileError: it is cut, empty, changed, or no checkpoint.
        OSError: it cannot be read.
    """
    if not path.exists():
        return None
    data = io.BytesIO(path.read_bytes())
    try:
        # torch 2.14.1 reads tensors without a look at their checksums (findings/torch_load_changed_bit.sh).
        with zipfile.ZipFile(data) as archive:
            changed = archive.testzip()
        if changed:
            raise ValueError(f"wrong checksum of {changed}")
        data.seek(0)
        state = torch.load(data, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # what is no checkpoint can fail in any way
        raise DamagedFileError(path, str(error).partition("\n")[0]) from error
    return state if state.get("key") == key else None


def head_state(model: Classifier) -> dict[str, Any]:
    """The head and the classes that it knows, for a checkpoint."""
    head = {name: value.detach().cpu() for name, value in model.head.state_dict().items()}
    return {"head": head, "classes_seen": list(model.classes_seen)}


def restore_head(model: Classifier, saved: dict[str, Any]) -> None:
    """Inverse of :func:`head_state`."""
    head = GrowingHead(model.backbone.feature_dim, kind=model.head.kind)
    head.grow(torch.zeros(len(saved["classes_seen"]), model.backbone.feature_dim))
    head.load_state_dict(saved["head"])
    model.head = head.to(model.device)
    model.classes_seen = list(saved["classes_seen"])
