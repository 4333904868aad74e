"""transformers' own trainer with replay: what a checkpoint says, and a run that goes on from one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import Trainer, TrainingArguments

from client import Buffer, MemoryClient
from learner.adapters.huggingface import ReplayCallback, ReplaySamples
from memory_format import NotFoundError, Record
from tests.client.samples import make
from tests.conftest import Service

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata 0.11 beside torch 2.14
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]


class Model(nn.Module):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[Any] = []

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.seen.append((labels.tolist(), [round(float(value), 4) for value in pixel_values.sum((1, 2, 3))]))
        return {"loss": self.layer(pixel_values.mean()[None]).sum()}


def alike(number: int) -> Record:
    """All of one size."""
    return make(number, class_id=number, patches=make(0).patches() + number % 100, keep_mask=make(0).keep_mask)


def samples_of(buffer: Buffer, **settings: Any) -> ReplaySamples:
    pixels = torch.rand(12, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    new = StatefulDataLoader(TensorDataset(pixels, torch.arange(50, 62)), batch_size=4)
    return ReplaySamples(new, buffer, **{"batch_size": 5, "seed": 2, "ratio": 0.5, **settings})


def train(buffer: Buffer, folder: Path, resume: str | None = None, **settings: Any) -> list[Any]:
    """What the model was given in eight steps; checkpoints are made after each."""
    given: dict[str, Any] = {"ignore_data_skip": True, **settings}
    args = TrainingArguments(
        str(folder),
        max_steps=8,
        per_device_train_batch_size=4,
        save_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **given,
    )
    samples = samples_of(buffer)
    callback = ReplayCallback(samples, report=lambda line: None)
    trainer = Trainer(Model(), args, train_dataset=samples, callbacks=[callback])
    trainer.train(resume_from_checkpoint=resume)
    assert isinstance(trainer.model, Model)
    return trainer.model.seen


@pytest.fixture(scope="module")
def run(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Buffer, Path, list[Any]]]:
    folder = tmp_path_factory.mktemp("trainer")
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("trainer", budget_bytes=1_000_000)
        for number in range(8):
            buffer.push(
                [make(number, class_id=number, patches=make(0).patches() + number, keep_mask=make(0).keep_mask)]
            )
        yield buffer, folder, train(buffer, folder)


@pytest.fixture
def memory_buffer(service: Service) -> Iterator[Buffer]:
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("trainer-end", budget_bytes=1_000_000)
        buffer.push([alike(0)])
        yield buffer


@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_that_goes_on_is_the_same_run(run: tuple[Buffer, Path, list[Any]], tmp_path: Path, step: int) -> None:
    buffer, folder, expected = run
    assert len(expected) == 8
    assert sorted({label for labels, _ in expected for label in labels if label < 50}) != []
    buffer.push([alike(100 + step)])  # it reads the snapshot
    assert train(buffer, tmp_path, str(folder / f"checkpoint-{step}")) == expected[step:]


def test_a_checkpoint_has_a_name_and_no_data(run: tuple[Buffer, Path, list[Any]]) -> None:
    buffer, folder, _ = run
    text = (folder / "checkpoint-3" / "trainer_state.json").read_text()
    held = json.loads(text)["stateful_callbacks"]["ReplayCallback"]["attributes"]
    assert buffer.snapshot(held["snapshot"]).num_records == 8
    assert len(text) < 30_000


def test_exemplars_are_stored_at_the_end_and_what_there_is_is_said(memory_buffer: Buffer, tmp_path: Path) -> None:
    lines: list[str] = []
    samples = samples_of(memory_buffer)
    args = TrainingArguments(
        str(tmp_path), max_steps=1, ignore_data_skip=True, report_to="none", use_cpu=True, disable_tqdm=True
    )
    callback = ReplayCallback(samples, phase=4, exemplars=lambda: [alike(20), alike(21)], report=lines.append)
    Trainer(Model(), args, train_dataset=samples, callbacks=[callback]).train()
    assert re.match("phase 4: 1 exemplars of 1 classes, [0-9,]+ of 1,000,000 bytes", lines[0])
    assert lines[1].startswith("phase 4: 2 stored, 0 evicted; 3 exemplars of 3 classes, ")
    assert len(lines) == 2


def test_what_would_lose_the_place_is_refused(run: tuple[Buffer, Path, list[Any]], tmp_path: Path) -> None:
    buffer, folder, _ = run
    checkpoint = str(folder / "checkpoint-3")
    with pytest.raises(ValueError, match=r"TrainingArguments\(ignore_data_skip=True\)"):
        train(buffer, tmp_path, checkpoint, ignore_data_skip=False)
    with pytest.raises(ValueError, match="restore_callback_states_from_checkpoint makes other callbacks"):
        train(buffer, tmp_path, checkpoint, restore_callback_states_from_checkpoint=True)
    samples = samples_of(buffer)
    given = list(itertools.islice(samples, 10))
    assert [int(sample["replayed"]) for sample in given] == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    state = samples.state_dict(after=5)
    other = samples_of(buffer)
    other.load_state_dict(state)
    again = itertools.islice(other, 5)
    assert [int(sample["labels"]) for sample in again] == [int(sample["labels"]) for sample in given[5:]]
    with pytest.raises(ValueError, match="places are known from 0 to 10 samples, not after 11"):
        samples.state_dict(after=11)
    with pytest.raises(ValueError, match="not what ReplaySamples"):
        samples.load_state_dict({})
    empty = StatefulDataLoader(TensorDataset(torch.rand(3, 3, 16, 24), torch.arange(3)), batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match="the loader of new samples gives no batches"):
        next(iter(ReplaySamples(empty, buffer, ratio=0.5)))
    with pytest.raises(NotFoundError):
        samples.load_state_dict({**state, "snapshot": "gone"})
