"""A training script that can be killed, and a process that starts it again in no time: it has torch at hand and forks.

``python -m tests.client.trainer`` reads lines of JSON, each a :class:`Task`. It answers the pids of the processes that
it has started for it, and once all have ended their exit statuses.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from client import MemoryClient
from client.dataset import ReplayDataset
from client.tensors import TensorBatch

GLOBAL_BATCH: Final = 8
SEED: Final = 11
NUM_STEPS: Final = 20
"""Of an epoch: kills fall around its end, too."""


@dataclass(frozen=True)
class Task:
    """A run to begin, or to go on with."""

    mode: str
    """Who iterates: ``loop``, ``DataLoader`` or ``StatefulDataLoader``, the latter two with two workers."""
    url: str
    buffer: str
    folder: str
    """Of the checkpoint, and of what was seen."""
    until: int
    """Batches in all, after which it ends."""
    ranks: int = 1
    meeting: str = ""
    """A file where ranks find each other; none for one process."""


@dataclass(frozen=True)
class Seen:
    """A batch that was trained on, or a rank's part of it."""

    count: int
    """Of those before it, in all lives."""
    step: int
    rank: int
    ranks: int
    ids: list[int]
    pixels: list[int]
    """Checksums."""


def train(task: Task, rank: int) -> None:
    """Go on from the checkpoint, note each batch, and save after it."""
    torch.manual_seed(0)
    if task.meeting:
        dist.init_process_group("gloo", init_method=f"file://{task.meeting}", rank=rank, world_size=task.ranks)
    folder = Path(task.folder)
    dataset = ReplayDataset(
        MemoryClient(task.url).buffer(task.buffer),
        GLOBAL_BATCH // task.ranks,
        seed=SEED,
        num_steps=NUM_STEPS,
        prefetch=2,
    )
    loaders: dict[str, Callable[[], Any]] = {
        "loop": lambda: dataset,
        "DataLoader": lambda: DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True),
        "StatefulDataLoader": lambda: StatefulDataLoader(dataset, batch_size=None, num_workers=2),
    }
    loader = loaders[task.mode]()
    stateful = loader if task.mode == "StatefulDataLoader" else dataset
    count = 0
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        count = saved["count"]
        stateful.load_state_dict(saved["replay"])
    with (folder / f"seen-{rank}.jsonl").open("ab", buffering=0) as seen:
        for batch in _epochs(loader):
            seen.write(_line(Seen(count, int(batch["step"]), rank, task.ranks, *contents(batch))))
            count += 1
            if task.meeting:
                dist.all_reduce(batch["score"])  # as gradients are
            if rank == 0:
                replay = dataset.state_dict(after=batch) if task.mode == "DataLoader" else stateful.state_dict()
                torch.save({"count": count, "replay": replay}, folder / "checkpoint.new")
                (folder / "checkpoint.new").replace(checkpoint)
            if count == task.until:
                break
            time.sleep(0.01)  # a step


def _epochs(loader: Iterable[TensorBatch]) -> Iterator[TensorBatch]:
    while True:
        yield from loader


def contents(batch: TensorBatch) -> tuple[list[int], list[int]]:
    """Ids, and checksums of each record's pixels."""
    kept = zip(batch["patches"], batch["patch_valid"], strict=True)
    return batch["exemplar_id"].tolist(), [zlib.crc32(patches[valid].numpy().tobytes()) for patches, valid in kept]


def _line(seen: Seen) -> bytes:
    return json.dumps(asdict(seen)).encode() + b"\n"


def _start(task: Task, rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    status = 1
    try:
        # Nothing of the parent's: its lines are not read here, and what is said goes to the log.
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        train(task, rank)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Start what is asked for, one task at a time."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin:
        task = Task(**json.loads(line))
        pids = [_start(task, rank) for rank in range(task.ranks)]
        sys.stdout.write(json.dumps(pids) + "\n")
        sys.stdout.flush()
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        sys.stdout.write(json.dumps(statuses) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
