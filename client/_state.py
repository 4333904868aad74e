"""A data set's state as plain values: what it says, and which one is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from client._params import whole

FORMAT: Final = 1
_PLACE: Final = ("epoch", "next_step", "version")
_EPOCHS: Final = ("start_step", "num_steps")
"""What may be otherwise when a run goes on."""


def of(epoch: int, next_step: int, version: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a data set with these settings that is at this place."""
    return {"format": FORMAT, "epoch": epoch, "next_step": next_step, "version": version, **settings}


def digest(values: Mapping[str, Any]) -> str | None:
    """A short name of values, however many they are; None where there are none."""
    if not values:
        return None
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()


def read_batch(batch: Any) -> tuple[int, int]:
    """The step and the version of a batch.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(batch, Mapping) or not {"step", "version"} <= batch.keys():
        raise ValueError(f"after must be a batch with its step and version, got {batch!r:.100}")
    return int(batch["step"]), int(batch["version"])


def check(state: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a state that is not of a data set with these settings.

    Raises:
        ValueError: it is none, of a newer format, of another buffer, of other draws, or of other worker processes.
    """
    if isinstance(state, Mapping) and "format" in state and whole("format", state["format"], 1) > FORMAT:
        raise ValueError(
            f"the state is of format {state['format']}, which a newer version wrote; this one reads up to {FORMAT}"
        )
    if not isinstance(state, Mapping) or not {"format", *_PLACE, *settings} <= state.keys():
        raise ValueError(f"this is not what a ReplayDataset's state_dict() gives: {state!r:.100}")
    for name in (*_PLACE, "start_step"):
        whole(name, state[name], 0)
    if state["buffer"] != settings["buffer"]:
        raise ValueError(f"the state is of buffer {state['buffer']!r:.80}, this data set reads {settings['buffer']!r}")
    if state["workers"] != settings["workers"]:
        raise ValueError(
            f"the state is that of {_one_of(state['workers'])}, and this is {_one_of(settings['workers'])}: a "
            "StatefulDataLoader goes on with as many workers as before; state_dict(after=batch) is for any number"
        )
    in_workers = settings["workers"] is not None
    others = [
        f"{name} is {state[name]!r:.60} there and {value!r:.60} here"
        for name, value in settings.items()
        if state[name] != value and (in_workers or name not in _EPOCHS)
    ]
    if others:
        raise ValueError(
            f"the state is of other draws: {'; '.join(others)}. seek(step) goes on with these all the same"
        )


def _one_of(workers: Any) -> str:
    return "a process that is no worker" if workers is None else f"one of {workers} worker processes"
