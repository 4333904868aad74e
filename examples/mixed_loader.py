"""An ordinary training loop whose loader brings replay, and which is stopped half way and goes on.

Two classes are stored, masked; two new ones are learned beside them, half as many replayed samples as new ones. Then
the same again: the run is left after some batches, and a checkpoint in a file is all that goes on. Prints what the
memory holds, and whether both runs had the same losses. Takes about 10 s on two cores.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from shared import pieces, service
from torch import nn
from torch.utils.data import TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.transforms import v2

from client import Buffer, MemoryClient, record_from_image
from client.dataset import ReplayDataset
from client.mixed import Mixed
from client.phase_report import phase_report


def train(buffer: Buffer, checkpoint: Path, batches: int) -> list[float]:
    """Losses of so many batches more, after those of the checkpoint, if there is one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 4))
    images = torch.from_numpy(np.concatenate([pieces(2, 40), pieces(3, 40)])).permute(0, 3, 1, 2) / 255
    new = StatefulDataLoader(TensorDataset(images, torch.arange(2, 4).repeat_interleave(40)), 16, shuffle=True)
    flip = v2.Compose([v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])
    loader = Mixed(new, ReplayDataset(buffer, 32, seed=0), ratio=0.5, transform=flip)
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        loader.load_state_dict(saved["loader"])
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for batch in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == batches:
            torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, checkpoint)
            break
    return losses


if __name__ == "__main__":
    with service() as url, MemoryClient(url) as memory, tempfile.TemporaryDirectory() as folder:
        buffer = memory.create_buffer("mixed", budget_bytes=40_000)
        images = [(image, np.abs(image - image.mean((0, 1))).sum(2), c) for c in (0, 1) for image in pieces(c, 48)]
        pushed = buffer.push([record_from_image(i, attention=a, class_id=c, patch_px=8) for i, a, c in images])
        phase_report(buffer, 0, pushed, report=print)
        one, two = Path(folder, "one.pt"), Path(folder, "two.pt")
        same = train(buffer, one, 5) == train(buffer, two, 2) + train(buffer, two, 3)
        print(f"5 batches, and 2 and 3: the same losses: {same}")
