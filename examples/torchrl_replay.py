"""torchrl's prioritized replay, its transitions in 200,000 bytes of the service.

Pieces of six photographs come class by class. What the model gets wrong is drawn more often; a priority for a slot
that was written meanwhile is passed over. Starts a service of its own, takes about 20 s on two cores, and prints items,
bytes and the share of right answers. Argument: steps of a class.
"""

import sys
from typing import Any

import torch
from shared import pieces, service
from tensordict import TensorDict
from torch import nn
from torchrl.data import PrioritizedSampler

from client import MemoryClient
from client.phase_report import phase_report
from learner.adapters.torchrl import StoredReplayBuffer, StoredStorage
from memory_format import WebP


def data_of(class_id: int, count: int, seed: int) -> TensorDict:
    pixels = torch.from_numpy(pieces(class_id, count, seed=seed)).permute(0, 3, 1, 2)
    return TensorDict({"pixels": pixels, "label": torch.full((count,), class_id)}, batch_size=[count])


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    blocks = [nn.Sequential(nn.Conv2d(i, 2 * i, 3, 2, 1), nn.BatchNorm2d(2 * i), nn.ReLU()) for i in (3, 6, 12, 24)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 6))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with service() as url, MemoryClient(url) as memory:
        buffer = memory.create_buffer("torchrl", budget_bytes=200_000, eviction="reject")
        storage = StoredStorage(100, buffer, label="label", codec=WebP(quality=80))
        replay = StoredReplayBuffer(storage=storage, sampler=PrioritizedSampler(100, 0.7, 0.5), batch_size=32)
        for class_id in range(6):
            replay.extend(data_of(class_id, 24, seed=0))
            for _ in range(steps):
                batch = replay.sample()
                losses = nn.functional.cross_entropy(
                    model.train()(batch["pixels"] / 127.5 - 1), batch["label"], reduction="none"
                )
                optimizer.zero_grad()
                losses.mean().backward()
                optimizer.step()
                replay.update_tensordict_priority(batch.set("td_error", losses.detach()))
            phase_report(storage.exemplars.buffer, class_id, report=print)
        unseen: Any = torch.cat([data_of(class_id, 40, seed=1) for class_id in range(6)])
        right = (model.eval()(unseen["pixels"] / 127.5 - 1).argmax(1) == unseen["label"]).float().mean()
        print(f"{len(replay)} of {storage.max_size} slots, {right:.2f} right")
