"""The rehearsal memory of a learner of PyCIL or PILOT in 9,000 bytes of the service: three tasks of two classes.

The learner is their `BaseLearner`, which selects and reduces as ever; a network that only averages pixels stands for
its model. Starts a service of its own, takes about 20 s on two cores, and prints items and bytes.
Argument: a checkout of PyCIL or PILOT.
"""

from typing import Any

import numpy as np
import torch
from shared import from_checkout, pieces, service
from torch.utils.data import TensorDataset

from client import MemoryClient
from learner.adapters.pycil import StoredMemory

BaseLearner: Any = from_checkout("github.com/LAMDA-CL/PyCIL", "models.base").BaseLearner


class Learner(StoredMemory, BaseLearner):  # type: ignore[misc]
    pass


class Network(torch.nn.Module):
    feature_dim = 3

    def extract_vector(self, pictures: Any) -> Any:
        return pictures.mean((1, 2))

    def features(self, picture: Any) -> Any:
        return picture.mean((0, 1))


class DataManager:
    def get_dataset(self, indices: Any, source: str, mode: str, appendent: Any = None, ret_data: bool = False) -> Any:
        parts = [(pieces(int(c), 40), np.full(40, c)) for c in indices] + ([] if appendent is None else [appendent])
        data, targets = (np.concatenate(column) for column in zip(*parts, strict=True))
        rows = TensorDataset(torch.arange(len(data)), torch.from_numpy(data).float(), torch.from_numpy(targets))
        return (data, targets, rows) if ret_data else rows


if __name__ == "__main__":
    with service() as url, MemoryClient(url) as memory:
        buffer = memory.create_buffer("pycil", budget_bytes=9_000)
        learner = Learner({"memory_size": 60, "device": ["cpu"]}, memory=buffer, report=print)
        learner._network, learner._device = Network(), "cpu"
        for task in range(3):
            learner._cur_task, learner._known_classes, learner._total_classes = task, 2 * task, 2 * task + 2
            learner.build_rehearsal_memory(DataManager(), learner.samples_per_class)
        data, targets = learner._get_memory()
        print(f"{len(targets)} exemplars as an array: {data.shape} {data.dtype}")
