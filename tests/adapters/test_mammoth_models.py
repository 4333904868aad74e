"""Models of a checkout of Mammoth train over the service as with its own buffer.

``EXEMPLAR_MEMORY_MAMMOTH`` names the checkout. Its data sets' and notebooks' packages may be missing.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from client import MemoryClient
from learner.adapters.mammoth import Recorder, StoredExamples
from memory_format import WebPLossless
from tests.conftest import Service

MAMMOTH = os.environ.get("EXEMPLAR_MEMORY_MAMMOTH", "")

pytestmark = pytest.mark.skipif(not MAMMOTH, reason="needs a checkout of Mammoth: EXEMPLAR_MEMORY_MAMMOTH=PATH")

SETTINGS = Namespace(
    **{"buffer_size": 24, "minibatch_size": 8, "batch_size": 8, "alpha": 0.3, "beta": 0.8, "gamma": 0.85},
    **{"simclr_temp": 5, "simclr_batch_size": 8, "simclr_num_aug": 2, "lambd": 0.05, "dp_weight": 0, "align_bn": 1},
    **{"constr_eta": 0.1, "constr_margin": 0.3, "past_constraint": 0, "future_constraint": 1, "label_perc": 1},
    **{"optimizer": "sgd", "lr": 0.05, "optim_wd": 0, "optim_mom": 0, "optim_nesterov": 0, "nowand": 1},
)


class Tasks:
    """Three tasks of two classes."""

    N_CLASSES_PER_TASK, N_TASKS, N_CLASSES, SIZE, SETTING = 2, 3, 6, (16, 16), "class-il"

    def get_denormalization_transform(self) -> Namespace:
        return Namespace(mean=(0.5,) * 3, std=(0.25,) * 3)

    def get_offsets(self, task: int) -> tuple[int, int]:
        return 2 * task, 2 * task + 2


@pytest.fixture(scope="module", autouse=True)
def checkout() -> None:
    # Its `datasets` is another package than the one that is installed.
    sys.path.insert(0, MAMMOTH)
    for name in ("open_clip", "onedrivedownloader", "ftfy", "clip", "gdown", "deeplake"):
        if not any(Path(place, name).exists() for place in sys.path):
            sys.modules[name] = MagicMock()


def trained(model_class: Any, buffer: Any) -> tuple[list[float], Any]:
    """Losses of all steps, and the buffer; None = the model's own."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    body = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(*body, nn.Linear(8, 6))
    model = model_class(net, nn.functional.cross_entropy, SETTINGS, None, dataset=Tasks())
    model.device, model.transform = torch.device("cpu"), lambda pictures: pictures
    model.buffer = model.buffer if buffer is None else buffer
    losses = []
    for task in range(3):
        pictures, labels = samples(task)
        model._current_task, model._n_past_classes, model._n_seen_classes = task, 2 * task, 2 * task + 2
        batches = [(pictures[i : i + 8], labels[i : i + 8], pictures[i : i + 8]) for i in range(0, 32, 8)]
        losses += [float(model.observe(*batch)) for _ in range(2) for batch in batches]
        model.end_task(Namespace(train_loader=batches))
    return losses, model.buffer


def samples(task: int) -> tuple[Tensor, Tensor]:
    pictures = torch.randint(0, 256, (32, 3, 16, 16), generator=torch.Generator().manual_seed(task)).float() / 255
    return pictures, torch.arange(32) % 2 + 2 * task


@pytest.mark.parametrize("name", ["er.Er", "derpp.Derpp", "xder.XDer", "xder_ce.XDerCe"])
def test_losses_and_what_is_kept_are_those_with_its_own_buffer(service: Service, name: str) -> None:
    module, _, model = name.partition(".")
    model_class = getattr(importlib.import_module(f"models.{module}"), model)
    own_buffer: Any = importlib.import_module("utils.buffer").Buffer

    class ServiceBuffer(StoredExamples, own_buffer):  # type: ignore[misc]
        """As a user of Mammoth has it."""

    with MemoryClient(service.url) as memory:
        made = memory.create_buffer(f"mammoth-{module}", budget_bytes=10**6)
        losses, own = trained(model_class, None)
        found, ours = trained(model_class, ServiceBuffer(24, memory=made, recorder=Recorder(WebPLossless())))
        ours.commit()
        assert found == losses
        assert ours.used_attributes == own.used_attributes
        for attribute in own.used_attributes:
            assert torch.equal(getattr(ours, attribute)[:], getattr(own, attribute)[:])
        if "logits" in own.used_attributes:
            held = {record.exemplar_id: record.arrays()["logits"] for record in made.records()}
            assert all(
                np.array_equal(held[id_], own.logits[place].numpy())
                for place, id_ in enumerate(ours.examples.ids.tolist())
            )
