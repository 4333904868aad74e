"""``learner``, as ``torchrun`` starts it, that notes which exemplars this rank replays: a line a step, in folder NOTES.

``python -m tests.learner.ranked run ...``. Where NOTES/pause is there, the first rank makes NOTES/paused at the first
step of phase 2 and waits: the others come to wait for it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from client.tensors import TensorBatch
from learner import world
from learner.cli import main
from learner.memory.exemplars import to_replay
from learner.run import method_run
from learner.training.train import Replay


def noting(notes: Path) -> None:
    """From now on, write down what is replayed."""

    def note(batch: TensorBatch, patch_px: int | None = None) -> Replay:
        step = int(batch["step"])
        if world.rank() == 0 and step >= 2_000_000 and (notes / "pause").exists():
            (notes / "paused").touch()
            time.sleep(120)
        with (notes / f"{world.rank()}-of-{world.size()}.jsonl").open("a") as file:
            file.write(json.dumps([step, batch["exemplar_id"].tolist()]) + "\n")
        return to_replay(batch, patch_px)

    method_run.__dict__["to_replay"] = note


if __name__ == "__main__":
    noting(Path(os.environ["NOTES"]))
    sys.exit(main(sys.argv[1:]))
