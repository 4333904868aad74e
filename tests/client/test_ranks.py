"""Ranks of distributed training: together they replay what one process does, with torch's own groups."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from client import Buffer, MemoryClient
from client.dataset import ReplayDataset
from client.tensors import TensorBatch
from memory_format import ConflictError
from memory_format.api.terms import STRATEGIES
from tests.client.samples import make_many

GLOBAL_BATCH = 8


@pytest.fixture
def filled(buffer: Buffer) -> Buffer:
    buffer.push(make_many(40))
    return buffer


def rows_of(batch: TensorBatch) -> list[tuple[int, int, list[int]]]:
    """Each row's id, the checksum of its kept patches, and its words."""
    return [
        (
            int(batch["exemplar_id"][row]),
            zlib.crc32(batch["patches"][row][batch["patch_valid"][row]].numpy().tobytes()),
            batch["token_ids"][row][batch["token_valid"][row]].tolist(),
        )
        for row in range(len(batch["exemplar_id"]))
    ]


def replayed(buffer: Buffer, world_size: int, **settings: Any) -> list[Any]:
    """Of each step, the rows of all ranks one after another."""
    ranks = [
        list(ReplayDataset(buffer, GLOBAL_BATCH // world_size, rank=rank, world_size=world_size, **settings))
        for rank in range(world_size)
    ]
    steps = [[int(batch["step"]) for batch in batches] for batches in ranks]
    assert all(each == steps[0] for each in steps)
    return [[row for batch in batches for row in rows_of(batch)] for batches in zip(*ranks, strict=True)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("replace", [True, False])
def test_any_number_of_ranks_replays_the_same(filled: Buffer, strategy: Any, replace: bool) -> None:
    settings = {"seed": 1, "num_steps": 3, "strategy": strategy, "replace": replace, "repair_text": 0.5}
    alone = replayed(filled, 1, **settings)
    assert len({str(rows) for rows in alone}) == 3
    for world_size in (2, 4, 8):
        assert replayed(filled, world_size, **settings) == alone


def test_no_rank_gets_what_another_one_is_for(filled: Buffer) -> None:
    ranks = [ReplayDataset(filled, 10, num_steps=1, replace=False, rank=rank, world_size=4) for rank in range(4)]
    drawn = [int(exemplar_id) for dataset in ranks for batch in dataset for exemplar_id in batch["exemplar_id"]]
    assert sorted(drawn) == list(range(1, 41))


def test_the_ranks_of_a_step_are_of_one_version_or_say_so(filled: Buffer) -> None:
    """With ``version``, no rank draws at another one; a snapshot stays for all."""
    filled.take_snapshot("then")
    before = replayed(filled, 2, num_steps=2, snapshot="then")
    first = next(iter(ReplayDataset(filled, 4, rank=0, world_size=2, version=1)))
    filled.push(make_many(1, first=50))
    with pytest.raises(ConflictError, match="is at version 2, 1 was asked for"):
        next(iter(ReplayDataset(filled, 4, rank=1, world_size=2, version=1)))
    assert replayed(filled, 2, num_steps=2, snapshot="then") == before
    assert rows_of(first) == before[0][:4]


def test_a_state_goes_on_with_another_number_of_ranks(filled: Buffer) -> None:
    alone = replayed(filled, 1, num_steps=6)
    states = []
    for rank in range(2):
        dataset = ReplayDataset(filled, 4, num_steps=6, rank=rank, world_size=2)
        batches = iter(dataset)
        next(batches)
        next(batches)
        batches.close()
        states.append(dataset.state_dict())
    assert states[0] == states[1], "the same on every rank"
    rest = []
    for rank in range(4):
        dataset = ReplayDataset(filled, 2, num_steps=6, rank=rank, world_size=4)
        dataset.load_state_dict(states[0])
        rest.append([rows_of(batch) for batch in dataset])
    assert [[row for rows in step for row in rows] for step in zip(*rest, strict=True)] == alone[2:]
    with pytest.raises(ValueError, match="batch_size is 8 there and 16 here"):
        ReplayDataset(filled, 4, num_steps=6, rank=0, world_size=4).load_state_dict(states[0])


@pytest.mark.parametrize(
    "numbers", [{"rank": 0}, {"world_size": 2}, {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}]
)
def test_ranks_that_make_no_sense_are_refused(filled: Buffer, numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rank"):
        ReplayDataset(filled, 4, **numbers)


def test_ranks_that_would_draw_the_same_are_refused(filled: Buffer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher has started several, and nobody has said which one this is."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = ReplayDataset(filled, 4, num_steps=1)
    with pytest.raises(RuntimeError, match=r"rank 1 of 2 .*init_process_group"):
        next(iter(dataset))
    assert len(list(ReplayDataset(filled, 4, num_steps=1, rank=0, world_size=1))) == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(list(dataset)) == 1


def test_a_rank_that_is_another_ones_is_refused(memory: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    buffer = Buffer(memory, "b")
    with pytest.raises(RuntimeError, match="rank 0 of 4 was given, and this process is rank 3"):
        next(iter(ReplayDataset(buffer, 4, rank=0, world_size=4)))
    # Ranks that share a model draw the same on purpose: they say of how many parts.
    assert ReplayDataset(buffer, 4, rank=1, world_size=2).state_dict()["batch_size"] == 8


RANK = """
import pickle, sys, torch.distributed as dist
from torch.utils.data import DataLoader
from client import MemoryClient
from client.dataset import ReplayDataset
from tests.client.test_ranks import rows_of

url, name, meeting, rank, world_size = sys.argv[1:]
if __name__ == "__main__":
    dataset = ReplayDataset(MemoryClient(url).buffer(name), 4, num_steps=4)  # before the group is there
    dist.init_process_group("gloo", init_method="file://" + meeting, rank=int(rank), world_size=int(world_size))
    forked = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    epochs = [[rows_of(batch) for batch in batches] for batches in (dataset, forked)]
    everybody = [None] * int(world_size)
    dist.all_gather_object(everybody, epochs)
    pickled = pickle.dumps(dataset)  # for a spawned worker, which is in no group
    if rank == "0":
        import json
        print(json.dumps(everybody))
    dist.destroy_process_group()
    copy = pickle.loads(pickled)
    assert (copy.rank, copy.world_size) == (int(rank), int(world_size))
"""


def test_the_ranks_of_a_group_know_themselves(filled: Buffer, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONWARNINGS": "ignore",
    }
    arguments = [sys.executable, str(script), filled.client.url, filled.name, str(tmp_path / "meeting")]
    ranks = [
        subprocess.Popen([*arguments, str(rank), "2"], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    left, right = json.loads(said[0])
    alone = json.loads(json.dumps(replayed(filled, 1, num_steps=8)))
    for epoch in range(2):
        together = [mine + others for mine, others in zip(left[epoch], right[epoch], strict=True)]
        assert together == alone[4 * epoch : 4 * epoch + 4]


def test_streams_are_independent_data_sets(filled: Buffer) -> None:
    first = [rows_of(batch) for batch in ReplayDataset(filled, 4, num_steps=3)]
    again = ReplayDataset(filled, 4, num_steps=3, stream="second")
    assert [rows_of(batch) for batch in again] != first
    assert next(rows_of(batch) for batch in pickle.loads(pickle.dumps(again))) != first[0]
    for bad in ("s" * 65, "\n", 3, None):
        with pytest.raises(ValueError, match="stream must be a label"):
            ReplayDataset(filled, 4, stream=bad)  # type: ignore[arg-type]
