"""Avalanche's DER++, its exemplars and their logits in the service, on the experiences of avalanche_replay.py.

`DER` has a policy of its own, which chooses as ever, 24 items at most. At first they stay in memory, then in 9,000
bytes of the service, as much of each picture as in the other example. Starts a service of its own, takes about 20 s on
two cores, and prints items, bytes and the share of right answers. Argument: epochs.
"""

import sys

import numpy as np
import torch
from avalanche_replay import data_of
from shared import service
from torch import nn

from client import MemoryClient
from learner.adapters.avalanche import Recorder, StoredExemplars

from avalanche.benchmarks import nc_benchmark  # isort: skip  # after the adapter, which silences its warnings
from avalanche.logging import BaseLogger  # isort: skip
from avalanche.training import DER  # isort: skip
from avalanche.training.plugins import EvaluationPlugin  # isort: skip
from avalanche.training.storage_policy import ExemplarsBuffer  # isort: skip
from avalanche.training.supervised.der import ClassBalancedBufferWithLogits  # isort: skip


def run(name: str, policy: ExemplarsBuffer, epochs: int) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(i, 2 * i, 3, 2, 1), nn.BatchNorm2d(2 * i), nn.ReLU()) for i in (3, 6, 12, 24)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 6))
    optimizer, evaluator = torch.optim.Adam(model.parameters(), 3e-3), EvaluationPlugin(loggers=[BaseLogger()])
    sizes = {"mem_size": 24, "batch_size_mem": 8, "train_mb_size": 16, "train_epochs": epochs}
    strategy = DER(model=model, optimizer=optimizer, evaluator=evaluator, **sizes)
    strategy.storage_policy = policy
    for experience in benchmark.train_stream:
        strategy.train(experience)
    right = (model.eval()(unseen.tensors[0]).argmax(1) == unseen.tensors[1]).float().mean()
    print(f"{name}: {len(policy.buffer)} exemplars, {right:.2f} right", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    unseen = data_of(1, 40)
    benchmark = nc_benchmark(data_of(0, 48), unseen, n_experiences=3, task_labels=False, shuffle=False)
    run("in memory, 12,312 bytes each", ClassBalancedBufferWithLogits(24), epochs)
    masked = Recorder(patch_px=8, masked=lambda pixels: np.abs(pixels - pixels.mean((0, 1))).sum(2), keep=0.5)
    with service() as url, MemoryClient(url) as memory:
        buffer, like = memory.create_buffer("der", budget_bytes=9_000), benchmark.train_stream[0].dataset
        stored = StoredExemplars(ClassBalancedBufferWithLogits(24), buffer, like=like, recorder=masked, report=print)
        run("in the service", stored, epochs)
