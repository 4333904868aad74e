"""Atomic files, and what a run leaves after each stage so that it can go on from there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from learner.head import GrowingHead
from learner.train import Classifier


def config_key(config: dict[str, Any]) -> str:
    """Short name of a configuration: runs with equal keys may share checkpoints."""
    return hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=6).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or none of it, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of tensors and plain values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def load(path: Path, key: str) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one of the same configuration, else None."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
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


def model_state(model: Classifier) -> dict[str, Any]:
    """All that training changes after the model was made."""
    return head_state(model) | model.tuned_state()


def restore_model(model: Classifier, saved: dict[str, Any]) -> None:
    """Inverse of :func:`model_state`."""
    restore_head(model, saved)
    model.restore_tuned(saved)
