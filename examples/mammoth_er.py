"""Experience replay with Mammoth's buffer, its pictures in 9,000 bytes of the service: three tasks of two classes.

Each step draws from the buffer, trains, and offers its new pictures, as Mammoth's model `er` does. Starts a service of
its own, takes about 20 s on two cores, and prints items, bytes and the share of right answers.
Arguments: a checkout of Mammoth with its requirements installed; steps of a task.
"""

import sys
from typing import Any

import numpy as np
import torch
from shared import from_checkout, pieces, service
from torch import nn

from client import MemoryClient
from learner.adapters.mammoth import Recorder, StoredExamples

Buffer: Any = from_checkout("github.com/aimagelab/mammoth", "utils.buffer").Buffer


class ServiceBuffer(StoredExamples, Buffer):  # type: ignore[misc]
    pass


def tensors(classes: range, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures = np.concatenate([pieces(c, count, seed=seed) for c in classes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, torch.tensor([*classes]).repeat_interleave(count)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (Mammoth's buffer draws with NumPy's global numbers)
    blocks = [nn.Sequential(nn.Conv2d(i, 2 * i, 3, 2, 1), nn.BatchNorm2d(2 * i), nn.ReLU()) for i in (3, 6, 12, 24)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 6))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    masked = Recorder(patch_px=8, masked=lambda pixels: np.abs(pixels - pixels.mean((0, 1))).sum(2), keep=0.5)
    with service() as url, MemoryClient(url) as memory:
        buffer = ServiceBuffer(40, memory=memory.create_buffer("er", budget_bytes=9_000), recorder=masked)
        for task in range(3):
            pictures, labels = tensors(range(2 * task, 2 * task + 2), 48, seed=0)
            for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 60):
                x, y = pictures[at := torch.randint(len(pictures), (16,))], labels[at]
                old = buffer.get_data(16) if len(buffer) else (x[:0], y[:0])
                optimizer.zero_grad()
                nn.functional.cross_entropy(model.train()(torch.cat([x, old[0]])), torch.cat([y, old[1]])).backward()
                optimizer.step()
                buffer.add_data(examples=x, labels=y)
            buffer.report(task, print)
        pictures, labels = tensors(range(6), 40, seed=1)
        right = (model.eval()(pictures).argmax(1) == labels).float().mean()
        print(f"{len(buffer)} of 40 places, {right:.2f} right")
