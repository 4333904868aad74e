"""transformers' Trainer with replay, stopped and gone on with from a checkpoint.

Two classes are stored; two others are learned beside them in ten steps, and stored at the end. Then the same from the
checkpoint of the fourth step. Prints what the memory holds, and whether both have the same weights at the end. Takes
about 20 s on two cores.
"""

import tempfile

import torch
from shared import pieces, service
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import Trainer, TrainingArguments

from client import Buffer, MemoryClient, record_from_image
from learner.adapters.huggingface import ReplayCallback, ReplaySamples
from memory_format import Record


def records(*classes: int) -> list[Record]:
    return [record_from_image(image, class_id=c, phase=c // 2) for c in classes for image in pieces(c, 32)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 4))

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(self.layers(pixel_values), labels)}


def train(buffer: Buffer, folder: str, checkpoint: str | None = None) -> Tensor:
    images = torch.cat([torch.from_numpy(pieces(c, 32)) for c in (2, 3)]).permute(0, 3, 1, 2) / 255
    new = StatefulDataLoader(TensorDataset(images, torch.arange(2, 4).repeat_interleave(32)), 8)
    samples = ReplaySamples(new, buffer, ratio=1, seed=0)
    callback = ReplayCallback(samples, phase=1, exemplars=lambda: records(2, 3), report=print)
    args = TrainingArguments(
        folder, max_steps=10, save_steps=2, per_device_train_batch_size=16, ignore_data_skip=True, use_cpu=True
    )
    trainer = Trainer(model := Model(), args, train_dataset=samples, callbacks=[callback])
    trainer.train(resume_from_checkpoint=checkpoint)
    return torch.cat([weights.flatten() for weights in model.parameters()]).detach()


if __name__ == "__main__":
    with service() as url, MemoryClient(url) as memory, tempfile.TemporaryDirectory() as folder:
        buffer = memory.create_buffer("trainer", budget_bytes=400_000)
        buffer.push(records(0, 1))
        whole = train(buffer, folder)
        print("the same weights:", torch.equal(whole, train(buffer, folder, f"{folder}/checkpoint-4")))
