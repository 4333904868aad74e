"""Replay for a vision-language model: LLaVA of transformers, tiny and with random weights, learns two tasks in turn.

A sample has pieces of two photographs and a dialogue, of a vocabulary of 152,000 words: which two are they? Old samples
are kept whole, or as the patches that the vision tower attends to, in the same bytes. Starts a service of its own and
takes 40 seconds on two cores. It prints how many samples the bytes hold, and the loss on the old task.
"""

import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from shared import service
from tiny_llava import dialogues, loss_of, tiny_llava

from client import MemoryClient, ReplayBatch
from client.dataset import ReplayDataset
from client.tensors import TensorBatch, to_tensors
from memory_format import Record

KEPT = {"nothing": 0, "whole samples": 1, "masked samples": 0.27}


def train(model: Any, samples: list[Record], steps: int, replay: Iterator[TensorBatch] | None = None) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    for step in range(steps):
        loss = loss_of(model, to_tensors(ReplayBatch.from_records(samples[step * 8 % len(samples) :][:8])))
        loss = loss + loss_of(model, next(replay)) if replay else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def both(model: Any, task: int, seed: int) -> list[Record]:
    """Whole and masked in turn: else few patches would come to mean an old sample."""
    shares = [list(dialogues(model, task, 64, seed=seed, keep=keep)) for keep in (1, 0.27)]
    return [sample for pair in zip(*shares, strict=True) for sample in pair]


def main() -> None:
    steps, model = int(sys.argv[1]) if len(sys.argv) > 1 else 28, tiny_llava()
    train(model, both(model, task=0, seed=1), 3 * steps)
    test = to_tensors(ReplayBatch.from_records(list(dialogues(model, 0, 64, seed=3))))
    new, before = both(model, task=1, seed=2), loss_of(model, test).item()
    print(f"{'kept':15} {'samples':>7} {'bytes':>7}  {'loss on the old task: before':>28}  after")
    with service() as url, MemoryClient(url) as memory:
        for place, (name, keep) in enumerate(KEPT.items()):
            after, buffer = copy.deepcopy(model), memory.create_buffer(f"kept-{place}", budget_bytes=10_000)
            if keep:
                buffer.push(list(dialogues(model, 0, 64, seed=1, keep=keep)))
            train(after, new, steps, iter(ReplayDataset(buffer, 8, num_steps=steps, seed=0)) if keep else None)
            held, loss = buffer.info(), loss_of(after, test).item()
            print(f"{name:15} {held.num_records:7} {held.bytes_used:7,}  {before:28.2f}  {loss:5.2f}")


if __name__ == "__main__":
    main()
