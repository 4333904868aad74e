"""New and replayed samples in one batch: how many, which ones, what they look like, and a run that goes on."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.transforms import v2

from client import Buffer, MemoryClient
from client.buffer_dataset import BufferDataset
from client.dataset import ReplayDataset
from client.mixed import Mixed
from client.pictures import pictures_of
from memory_format import NotFoundError, RawZstd, Record, make_record
from tests.conftest import Service

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes:UserWarning"),
    # torchdata 0.11 beside torch 2.14.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]

FLIP = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(16), v2.ToDtype(torch.float32, scale=True)])


def record(number: int, grid: tuple[int, int] = (2, 2)) -> Record:
    """Every third one is a whole picture, others are masked."""
    rng = np.random.default_rng(number)
    keep_mask = rng.random(grid) < 0.5
    keep_mask[0, 0] = True
    if number % 3 == 0:
        keep_mask[:] = True
    patches = rng.integers(0, 256, (int(keep_mask.sum()), 8, 8, 3), dtype=np.uint8)
    return make_record(class_id=number % 4, patches=patches, keep_mask=keep_mask, codec=RawZstd())


@pytest.fixture(scope="module")
def filled(service: Service) -> Iterator[Buffer]:
    """30 pictures of 16 x 16 px, which no test changes."""
    with MemoryClient(service.url) as memory:
        buffer = memory.create_buffer("mixed", budget_bytes=1_000_000)
        buffer.push([record(number) for number in range(30)])
        yield buffer


def new_samples(count: int = 20, side: int = 16) -> TensorDataset:
    labels = torch.arange(100, 100 + count)
    return TensorDataset(torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)), labels)


def replayed(batch: dict[str, Tensor]) -> list[int]:
    return batch["labels"][batch["replayed"]].tolist()


def test_pictures_are_those_of_the_records(filled: Buffer) -> None:
    everything = BufferDataset(filled)
    pixels, mask = pictures_of(next(iter(DataLoader(everything, batch_size=30))), fill=(1, 2, 3))
    assert pixels.shape == (30, 3, 16, 16)
    for row, held in enumerate(filled.records()):
        shown = held.image("transparent")
        kept = shown[..., 3] > 0
        assert (mask[row].numpy() == kept).all()
        assert (pixels[row].permute(1, 2, 0).numpy()[kept] == shown[kept][:, :3]).all()
        assert (pixels[row].permute(1, 2, 0).numpy()[~kept] == (1, 2, 3)).all()
    assert mask[::3].all()
    assert not mask.all()


def test_each_replayed_row_comes_once_and_in_order(filled: Buffer) -> None:
    """0.3 for each of 8, 8 and 4 new ones; steps of the memory have 5."""
    mixed = Mixed(DataLoader(new_samples(), batch_size=8), ReplayDataset(filled, 5, seed=1, num_steps=2), ratio=0.3)
    found = [batch for _ in range(3) for batch in mixed]
    assert len(mixed) == 3
    assert [len(replayed(batch)) for batch in found] == [2, 2, 2, 2, 2, 2, 2, 2, 2]
    drawn = [filled.sample(5, seed=1, step=step) for step in range(4)]
    assert [*itertools.chain.from_iterable(map(replayed, found))] == np.concatenate(
        [batch.class_id for batch in drawn]
    )[:18].tolist()
    first, old = found[0], drawn[0]
    assert (first["pixel_values"][:8] == new_samples().tensors[0][:8]).all()
    assert first["mask"][:8].all()
    for row in range(2):
        shown = torch.from_numpy(old.images("transparent")[row])
        kept = first["mask"][8 + row]
        assert (kept == (shown[..., 3] > 0)).all()
        assert torch.equal(first["pixel_values"][8 + row].permute(1, 2, 0)[kept], shown[kept][:, :3].float() / 255)


@pytest.mark.parametrize(("workers", "taken"), [(0, 0), (0, 2), (0, 3), (0, 5), (2, 4)])
def test_a_run_that_goes_on_is_the_same_run(filled: Buffer, workers: int, taken: int) -> None:
    data = new_samples()

    def mixed() -> Mixed:
        # Of its own shuffle, torchdata 0.11 goes on with the epoch that is loaded, and has other ones after it.
        sampler: DistributedSampler[Any] = DistributedSampler(data, num_replicas=1, rank=0, seed=5)
        new = StatefulDataLoader(data, batch_size=8, sampler=sampler, num_workers=workers)
        return Mixed(new, ReplayDataset(filled, 5, seed=1, num_steps=3), schedule={1: 0.7, 4: 1.2}, transform=FLIP)

    def batches(mixed: Mixed, count: int) -> list[dict[str, Tensor]]:
        return list(itertools.islice(itertools.chain.from_iterable(itertools.repeat(mixed)), count))

    expected = batches(mixed(), 7)
    first = mixed()
    found = batches(first, taken)
    saved = pickle.dumps(first.state_dict())
    assert len(saved) < 20_000  # of torch's generator 5,000, more than once
    second = mixed()
    second.load_state_dict(pickle.loads(saved))
    torch.rand(3)  # what others draw changes nothing
    found += batches(second, 7 - taken)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert [len(replayed(batch)) for batch in found] == [0, 5, 3, 6, 9, 5, 10]


def test_random_numbers_of_others_stay_theirs(filled: Buffer) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    for _ in Mixed([new_samples(8).tensors], ReplayDataset(filled, 4), ratio=1, transform=FLIP):
        pass
    assert torch.equal(torch.rand(4), expected)


def test_masks_go_with_their_pictures(filled: Buffer) -> None:
    flip = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.ToDtype(torch.float32, scale=True)])
    new = [{"pixel_values": new_samples(8).tensors[0], "labels": torch.zeros(8, dtype=torch.int32)}]
    (plain,), (flipped,) = (Mixed(new, ReplayDataset(filled, 8), ratio=1, transform=how) for how in (None, flip))
    assert torch.equal(flipped["mask"][8:], plain["mask"][8:].flip(-1))
    assert torch.allclose(flipped["pixel_values"][8:], plain["pixel_values"][8:].flip(-1))
    assert flipped["labels"].dtype == torch.int32
    assert flipped["mask"].dtype == torch.bool


def test_an_empty_memory_is_not_asked_while_nothing_is_due(service: Service) -> None:
    with MemoryClient(service.url) as memory:
        empty = memory.create_buffer("mixed-empty", budget_bytes=1_000_000)
        mixed = Mixed([new_samples(4).tensors] * 3, ReplayDataset(empty, 4), schedule=lambda step: float(step == 2))
        batches = iter(mixed)
        assert [len(next(batches)["labels"]) for _ in range(2)] == [4, 4]
        with pytest.raises(NotFoundError):
            next(batches)
        empty.push([record(0)])
        assert [len(batch["labels"]) for batch in itertools.islice(mixed, 1)] == [8]


def test_what_failed_is_due_again(filled: Buffer) -> None:
    failures = [True, False, False, False, False]

    def transform(picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if failures.pop(0):
            raise OSError("once")
        return picture / 255, mask

    mixed = Mixed([new_samples(4).tensors], ReplayDataset(filled, 3, seed=2), ratio=1, transform=transform)
    with pytest.raises(OSError, match="once"):
        next(iter(mixed))
    assert (
        replayed(next(iter(mixed)))
        == np.concatenate([filled.sample(3, seed=2, step=s).class_id for s in (0, 1)])[:4].tolist()
    )


def test_pictures_of_several_sizes_need_a_transform(memory: MemoryClient) -> None:
    buffer = memory.create_buffer("mixed-sizes", budget_bytes=1_000_000)
    buffer.push([record(0), record(1, (3, 2))])
    replay = ReplayDataset(buffer, 4, strategy="class_balanced")
    with pytest.raises(ValueError, match="grids of 2x2, 3x2"):
        next(iter(Mixed([new_samples(4).tensors], replay, ratio=1)))
    with pytest.raises(ValueError, match=r"are \(3, ..?, 16\) and \(3, ..?, 16\) after"):
        next(iter(Mixed([new_samples(4).tensors], replay, ratio=1, transform=v2.ToDtype(torch.float32, scale=True))))
    with pytest.raises(ValueError, match=r"replayed pictures are \(3, 16, 16\) and new ones \(3, 20, 20\)"):
        next(iter(Mixed([new_samples(4, 20).tensors], replay, ratio=1, transform=FLIP)))
    (batch,) = Mixed([new_samples(4).tensors], replay, ratio=1, transform=FLIP)
    assert batch["pixel_values"].shape == (8, 3, 16, 16)


def test_other_batches_are_combined_by_their_owner(filled: Buffer) -> None:
    def combine(new: dict[str, Any], rows: dict[str, Tensor] | None) -> tuple[list[str], list[int]]:
        return new["words"], [] if rows is None else rows["exemplar_id"].tolist()

    new = [{"words": ["a", "b"], "ids": torch.zeros(2)}] * 2
    found = [*Mixed(new, ReplayDataset(filled, 3, seed=4), schedule={1: 2.5}, combine=combine)]
    expected = np.concatenate([filled.sample(3, seed=4, step=step).exemplar_id for step in (0, 1)])[:5].tolist()
    assert found == [(["a", "b"], []), (["a", "b"], expected)]
    with pytest.raises(ValueError, match="maybe mask, got \\['ids', 'words'\\]"):
        next(iter(Mixed(new, ReplayDataset(filled, 3), ratio=0)))


def test_nonsense_is_refused(filled: Buffer) -> None:
    new, replay = DataLoader(new_samples(), batch_size=8), ReplayDataset(filled, 4)
    for settings, words in (
        ({}, "either ratio or schedule"),
        ({"ratio": 1, "schedule": {0: 1}}, "either ratio or schedule"),
        ({"ratio": -0.1}, "a ratio is a number in 0..1000, got -0.1"),
        ({"schedule": {-1: 1}}, "a step of the schedule"),
        ({"ratio": 1, "fill": (0, 0)}, "fill is a colour"),
        ({"ratio": 1, "fill": (0, 0, 256)}, "fill must be a whole number in 0..255"),
        ({"ratio": 1, "transform": FLIP, "combine": print}, "transform or combine, not both"),
    ):
        with pytest.raises(ValueError, match=words):
            Mixed(new, replay, **settings)
    with pytest.raises(ValueError, match="got nan for step 0"):
        next(iter(Mixed(new, replay, schedule=lambda step: float("nan"))))
    with pytest.raises(TypeError, match="replay must be a ReplayDataset, got list"):
        Mixed(new, [], ratio=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="can be iterated over again, got list_iterator"):
        Mixed(iter([]), replay, ratio=1)
    with pytest.raises(TypeError, match=r"a DataLoader has no state.*StatefulDataLoader"):
        Mixed(new, replay, ratio=1).state_dict()
    stateful = Mixed(StatefulDataLoader(new_samples(), batch_size=8), replay, ratio=1)
    state = stateful.state_dict()
    for change, words in (({"format": 2}, "a newer version"), ({"due": 3}, "due is"), ({"row": 4}, "row must be")):
        with pytest.raises(ValueError, match=words):
            stateful.load_state_dict({**state, **change})
    with pytest.raises(ValueError, match=r"not what Mixed\.state_dict\(\) gives"):
        stateful.load_state_dict({"format": 1})
    other = Mixed(StatefulDataLoader(new_samples(), batch_size=8), ReplayDataset(filled, 4, seed=9), ratio=1)
    with pytest.raises(ValueError, match="seed is 0 there and 9 here"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="num_steps is 0"):
        next(iter(Mixed(new, ReplayDataset(filled, 4, num_steps=0), ratio=1)))
