"""An own training loop in plain torch, with replay from the memory: three phases of two classes each.

After each phase, the patches that differ most from their picture's mean are stored, 27 % of them. Later phases show
them beside the new pictures. The loop runs first without replay. Starts a service of its own, takes about 20 s on two
cores, and prints the share of right answers on unseen pictures of all classes so far. Argument: steps of a phase.
"""

import sys

import numpy as np
import torch
from shared import pieces, service
from torch import nn

from client import Buffer, MemoryClient, record_from_image
from client.dataset import ReplayDataset
from client.pictures import pictures_of


def run(buffer: Buffer | None, steps: int) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(i, 2 * i, 3, 2, 1), nn.BatchNorm2d(2 * i), nn.ReLU()) for i in (3, 6, 12, 24)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 6))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for phase in range(3):
        images = np.concatenate([pieces(c, 48) for c in (2 * phase, 2 * phase + 1)])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        labels = torch.arange(2 * phase, 2 * phase + 2).repeat_interleave(48)
        replay = ReplayDataset(buffer, 32, num_steps=steps, strategy="class_balanced") if buffer and phase else None
        for old in replay or [None] * steps:
            at = torch.randint(len(images), (32,))
            x, y = pixels[at], labels[at]
            if old is not None:
                x, y = torch.cat([x, pictures_of(old)[0]]), torch.cat([y, old["class_id"]])
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(x / 127.5 - 1), y).backward()
            optimizer.step()
        if buffer:
            scored = [(image, np.abs(image - image.mean((0, 1))).sum(2)) for image in images]
            pairs = zip(scored, labels.tolist(), strict=True)
            buffer.push([record_from_image(i, class_id=c, phase=phase, attention=a, patch_px=8) for (i, a), c in pairs])
        unseen = torch.from_numpy(np.concatenate([pieces(c, 40, seed=1) for c in range(2 * phase + 2)]))
        answers = model.eval()(unseen.permute(0, 3, 1, 2) / 127.5 - 1).argmax(1)
        right = (answers == torch.arange(2 * phase + 2).repeat_interleave(40)).float().mean()
        print(f"{'with' if buffer else 'no'} replay, {2 * phase + 2} classes: {right:.2f} right", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # faster for so small a network
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    run(None, steps)
    with service() as url, MemoryClient(url) as memory:
        run(memory.create_buffer("own-loop", budget_bytes=40_000), steps)
