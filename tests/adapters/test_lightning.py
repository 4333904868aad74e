"""Lightning's own trainer with replay: what a checkpoint holds, and a run that goes on from one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from client import Buffer, MemoryClient
from client.mixed import Mixed
from learner.adapters.lightning import ReplayDataModule
from memory_format import NotFoundError
from tests.client.samples import make, make_many
from tests.conftest import Service

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata 0.11 beside torch 2.14
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),  # Lightning 2.6 beside torch 2.14
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:.*in the `DataLoader` will"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
_numbers = itertools.count()


@pytest.fixture
def buffer(service: Service) -> Iterator[Buffer]:
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer(f"lightning-{next(_numbers)}", budget_bytes=1_000_000)
        buffer.push(make_many(40))
        yield buffer


class Model(LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[list[float], list[int]]] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        (x,), replay = batch["data"], batch["replay"]
        self.seen.append((x.flatten().tolist(), replay["exemplar_id"].tolist()))
        return self.layer(x).mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def module_of(buffer: Buffer, **settings: Any) -> ReplayDataModule:
    def new() -> Any:
        data = TensorDataset(torch.arange(12.0)[:, None])
        sampler: Any = DistributedSampler(data, num_replicas=1, rank=0, seed=3)
        return StatefulDataLoader(data, batch_size=3, sampler=sampler)

    return ReplayDataModule(new, buffer, **{"batch_size": 5, "seed": 2, "report": lambda line: None, **settings})


def fit(
    module: ReplayDataModule,
    *,
    save_to: Path | None = None,
    ckpt_path: Path | None = None,
    model: Model | None = None,
) -> list[Any]:
    """What the model was given; the checkpoint of step n is then ``n.ckpt``."""
    model = model or Model()
    callbacks: list[Any] = []
    if save_to is not None:
        callbacks += [ModelCheckpoint(save_to, "{step}", every_n_train_steps=1, save_top_k=-1)]
        callbacks += [ModelCheckpoint(save_to, "end-{epoch}", save_top_k=-1)]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=callbacks,
        enable_checkpointing=save_to is not None,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=module, ckpt_path=ckpt_path, weights_only=True)
    return model.seen


@pytest.fixture(scope="module")
def runs(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Buffer, Path, list[Any]]]:
    """A run of three epochs, four steps each, with checkpoints after each step and each epoch."""
    folder = tmp_path_factory.mktemp("lightning")
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("lightning", budget_bytes=1_000_000)
        buffer.push(make_many(40))
        yield buffer, folder, fit(module_of(buffer), save_to=folder)


@pytest.mark.parametrize(("checkpoint", "steps"), [("step=1", 1), ("step=4", 4), ("end-epoch=0", 4), ("step=6", 6)])
def test_a_run_that_goes_on_is_the_same_run(runs: tuple[Buffer, Path, list[Any]], checkpoint: str, steps: int) -> None:
    buffer, folder, expected = runs
    assert len(expected) == 12
    buffer.push(make_many(10, first=100 * steps))  # the run is one over the snapshot
    assert fit(module_of(buffer), ckpt_path=folder / f"{checkpoint}.ckpt") == expected[steps:]


def test_a_checkpoint_has_a_name_and_no_data(runs: tuple[Buffer, Path, list[Any]]) -> None:
    buffer, folder, _ = runs
    saved = torch.load(folder / "step=3.ckpt", weights_only=True)
    held = saved["ReplayDataModule"]
    assert {*held} == {"buffer", "snapshot", "phase", "loaders"}
    assert buffer.snapshot(held["snapshot"]).num_records == 40
    assert (folder / "step=3.ckpt").stat().st_size < 20_000


class OfPictures(Model):
    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        self.seen.append((batch["labels"].tolist(), batch["pixel_values"].sum((1, 2, 3)).tolist()))
        return self.layer(batch["pixel_values"].mean()[None])  # type: ignore[no-any-return]


def test_a_mixed_loader_goes_on_too(buffer: Buffer, tmp_path: Path) -> None:
    buffer.delete(class_id=[0, 1, 2, 3])
    for number in range(8):
        buffer.push([make(number, class_id=number, patches=make(0).patches() + number, keep_mask=make(0).keep_mask)])

    def module() -> ReplayDataModule:
        data = TensorDataset(
            torch.rand(12, 3, 16, 24, generator=torch.Generator().manual_seed(0)), torch.arange(50, 62)
        )
        return ReplayDataModule(
            lambda: StatefulDataLoader(data, batch_size=3),
            buffer,
            batch_size=5,
            join=lambda new, replay: Mixed(new, replay, ratio=0.5),
        )

    expected = fit(module(), save_to=tmp_path, model=OfPictures())
    assert [len(labels) for labels, _ in expected] == [4, 5] * 6
    for checkpoint, steps in (("step=3", 3), ("step=4", 4), ("end-epoch=1", 8)):
        assert fit(module(), ckpt_path=tmp_path / f"{checkpoint}.ckpt", model=OfPictures()) == expected[steps:]


def test_what_the_buffer_holds_is_said(buffer: Buffer) -> None:
    lines: list[str] = []
    fit(module_of(buffer, phase=3, report=lines.append, cache_bytes=2**20, snapshot=buffer.take_snapshot("mine").name))
    assert lines == [
        f"phase 3: 40 exemplars of 4 classes, {buffer.info().bytes_used:,} of 1,000,000 bytes, "
        f"{buffer.info().bytes_used / 40:,.0f} each"
    ]
    assert [snapshot.name for snapshot in buffer.snapshots()] == ["mine"]


def test_what_cannot_go_on_is_refused(buffer: Buffer) -> None:
    module = module_of(buffer)
    saved = {"buffer": buffer.name, "snapshot": "gone", "phase": 0, "loaders": {}}
    with pytest.raises(NotFoundError, match=r"drew from snapshot 'gone'.*cannot go on"):
        module.load_state_dict(saved)
    with pytest.raises(ValueError, match="the checkpoint is of buffer 'other', and this is"):
        module.load_state_dict({**saved, "buffer": "other"})
    with pytest.raises(ValueError, match="of snapshot 'gone', and this is 'mine'"):
        module_of(buffer, snapshot="mine").load_state_dict(saved)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        module_of(buffer, batch_size=0)
    with pytest.raises(TypeError, match="a DataLoader has no state_dict: give torchdata's StatefulDataLoader"):
        ReplayDataModule(lambda: DataLoader([1, 2]), buffer, batch_size=2).train_dataloader()  # type: ignore[arg-type]
