"""Lightning's trainer with replay, stopped in an epoch and gone on with from its checkpoint.

Two classes are stored; two others are learned beside them for three epochs. Then the same from the checkpoint of the
fifth step, after somebody else has pushed. Prints what the memory holds, and whether both have the same weights at the
end. Takes about 15 s on two cores.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from shared import pieces, service
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from client import Buffer, MemoryClient, record_from_image
from client.mixed import Mixed
from learner.adapters.lightning import ReplayDataModule


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 4))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return nn.functional.cross_entropy(self.layers(batch["pixel_values"]), batch["labels"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def new() -> StatefulDataLoader[tuple[Tensor, ...]]:
    images = torch.cat([torch.from_numpy(pieces(class_id, 32)) for class_id in (2, 3)]).permute(0, 3, 1, 2) / 255
    return StatefulDataLoader(TensorDataset(images, torch.arange(2, 4).repeat_interleave(32)), 16)


def fit(buffer: Buffer, folder: str, checkpoint: Path | None = None) -> Tensor:
    join = partial(Mixed, ratio=1)
    module = ReplayDataModule(new, buffer, batch_size=16, phase=1, join=join, report=print)
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = Trainer(accelerator="cpu", max_epochs=3, callbacks=[keep], logger=False, enable_progress_bar=False)
    trainer.fit(model := Model(), datamodule=module, ckpt_path=checkpoint, weights_only=True)
    return torch.cat([weights.flatten() for weights in model.parameters()]).detach()


if __name__ == "__main__":
    torch.manual_seed(0)
    with service() as url, MemoryClient(url) as memory, tempfile.TemporaryDirectory() as folder:
        buffer = memory.create_buffer("lightning", budget_bytes=400_000)
        buffer.push([record_from_image(image, class_id=c) for c in (0, 1) for image in pieces(c, 32)])
        whole = fit(buffer, folder)
        buffer.push([record_from_image(image, class_id=4, phase=1) for image in pieces(4, 32)])
        print("the same weights:", torch.equal(whole, fit(buffer, folder, Path(folder, "step=5.ckpt"))))
