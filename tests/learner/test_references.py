"""L2P, DualPrompt and EASE: their formulas against cases by hand, and whole runs on a small frozen backbone."""

from __future__ import annotations

import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.learner import jobs, plans
from client import MemoryClient
from learner.baselines import ease, l2p
from learner.baselines.dual_prompt import DualPrompt
from learner.baselines.ease import Ease
from learner.baselines.frozen import FrozenClassifier
from learner.baselines.l2p import L2P
from learner.model.backbones.block import Additions, Prefix
from learner.model.backbones.vilt import ViltBackbone, small_vilt
from learner.run import method_run
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics
from learner.run.methods import BASES, parse_method
from learner.run.run import REFERENCES, Run
from learner.run.summary import seconds_spent
from learner.training.settings import TrainConfig
from learner.training.train import train_phase
from tests.learner.builders import PATCH_PX, make_problem, make_split, make_tokens
from tests.learner.test_phases import CONFIG, PROBLEM, PowerCutError

TRAIN = TrainConfig(base_epochs=6, ssf_epochs=6, batch_size=8, bf16="off", masked_views=0.0)
CPU = torch.device("cpu")
NO_SERVICE: Any = None  # they store nothing


def _backbone() -> ViltBackbone:
    """Random weights that are large enough for a picture to reach the class token: as good as pretrained ones here."""
    backbone = small_vilt(
        image_size=3 * PATCH_PX, patch_px=PATCH_PX, hidden_size=64, num_layers=4, num_heads=2, vocab_size=200
    )
    backbone.class_token = "image"
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return backbone


def _model(name: str, seed: int = 0) -> FrozenClassifier:
    return REFERENCES[name](_backbone(), CPU, bf16="off", seed=seed)


def _train(model: FrozenClassifier, classes: list[int], config: TrainConfig = TRAIN) -> None:
    new = make_split(classes, 8, seed=classes[0])
    model.add_classes(new)
    keep = torch.ones_like(new.tokens.patch_valid)
    train_phase(model, new, keep, None, phase=1, config=config, generator=torch.Generator().manual_seed(0))


def _run(name: str, out: Path, config: LearnerConfig = CONFIG) -> list[PhaseMetrics]:
    return Run(config, PROBLEM, NO_SERVICE, out).run(parse_method(name))


@pytest.fixture(autouse=True)
def backbone_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learner.run.run.make_backbone", lambda *args: _backbone())


def test_l2p_chooses_the_keys_nearest_in_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(l2p, "CHOSEN", 2)
    # At 0, 90, 30 and 180 degrees and of different lengths; queries at 40 and -100 degrees.
    keys = torch.tensor([[9.0, 0.0], [0.0, 0.1], [math.cos(math.pi / 6), 0.5], [-1.0, 0.0]])
    queries = torch.tensor(
        [[d * math.cos(math.radians(a)), d * math.sin(math.radians(a))] for d, a in ((5, 40), (1, -100))]
    )
    similarity, chosen = l2p.choose(queries, keys)
    assert chosen.tolist() == [[2, 0], [3, 0]]
    expected = [[10, 40], [80, 100]]
    assert torch.allclose(similarity, torch.tensor(expected).deg2rad().cos(), atol=1e-6)


def test_l2p_shows_the_chosen_prompts_and_pulls_their_keys() -> None:
    model, tokens = _model("l2p"), make_tokens(num=3)
    assert isinstance(model, L2P)
    similarity, chosen = l2p.choose(model.query(tokens), model.keys)
    features, own_loss = model.see(tokens)
    for sample in range(3):
        prompts = torch.cat([model.prompts[place] for place in chosen[sample]])[None]
        assert prompts.shape == (1, 25, 64)
        hidden = model.backbone.hidden(tokens[sample : sample + 1], Additions(prompts=prompts))
        assert torch.allclose(features[sample], hidden[0, :25].mean(0), atol=1e-5)
    assert own_loss.item() == pytest.approx(0.5 * (1 - similarity).sum().item(), rel=1e-5)
    gradient = torch.autograd.grad(features.sum() + own_loss, [model.prompts, model.keys])
    used = torch.zeros(10).bool().scatter(0, chosen.flatten(), True)
    for values in gradient:
        assert torch.equal(values.flatten(1).abs().sum(1) > 0, used)


def test_dual_prompt_takes_the_expert_of_the_nearest_key_at_the_test() -> None:
    model, tokens = _model("dualprompt"), make_tokens(num=4)
    assert isinstance(model, DualPrompt)
    for classes in ([4, 0], [2, 5], [1, 3]):
        model.add_classes(make_split(classes, 2))
    queries = model.query(tokens)
    for key, place in zip(model.keys, (2, 0, 1), strict=True):
        key.data = queries[place] * (place + 1)
    model.eval()
    features, _ = model.see(tokens)
    for sample, expert in ((2, 0), (0, 1), (1, 2)):
        expected = _with_expert(model, sample, expert)
        assert torch.allclose(features[sample], expected, atol=1e-5)
        assert not torch.allclose(features[sample], _with_expert(model, sample, (expert + 1) % 3), atol=1e-5)
    # In training it is the phase's own, and its key is the one that is pulled.
    model.train()
    features, own_loss = model.see(tokens)
    assert torch.allclose(features[2], _with_expert(model, 2, 2), atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(queries, model.keys[2][None])
    assert own_loss.item() == pytest.approx((1 - cosine).sum().item(), rel=1e-5)


def _with_expert(model: DualPrompt, sample: int, expert: int) -> torch.Tensor:
    tokens = make_tokens(num=4)[sample : sample + 1]
    layers = [*model.general, *model.experts[expert]]  # two of the general prompt, then all that are left
    prefixes = {place: Prefix(pair[:1], pair[1:]) for place, pair in enumerate(layers)}
    assert [prefix.keys.shape[1] for prefix in prefixes.values()] == [5, 5, 20, 20]
    features: torch.Tensor = model.backbone(tokens, Additions(prefixes=prefixes))[0]
    return features


def test_ease_mixes_old_prototypes_from_the_new_classes_by_hand() -> None:
    # Two spaces of two dimensions so far; class 0 came in the first, class 1 in the second; two new classes.
    prototypes = torch.tensor([[[2.0, 0.0], [9.0, 9.0]], [[7.0, 7.0], [0.0, 3.0]]])
    new = torch.tensor([[[0.0, 5.0], [0.0, 1.0], [1.0, 0.0]], [[3.0, 0.0], [4.0, 0.0], [0.0, 1.0]]])
    mixed = ease.synthesise(prototypes, torch.tensor([0, 1]), new)
    # Class 0 in space 0: cosine 0 to the first new class, 1 to the second. Class 1 in space 1: 1 and 0.
    much, little = math.e / (math.e + 1), 1 / (math.e + 1)
    assert torch.allclose(mixed, torch.tensor([[little, much], [much, little]]), atol=1e-6)
    assert ease.synthesise(torch.zeros(0, 0, 2), torch.zeros(0, dtype=torch.long), new[:, :1]).shape == (0, 2)


def test_ease_adds_up_cosines_with_the_own_space_first() -> None:
    features = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]])
    prototypes = torch.tensor([[[5.0, 0.0], [1.0, 0.0], [4.0, 3.0]], [[0.0, 1.0], [0.0, 7.0], [0.0, 1.0]]])
    # Cosines: 1, 0 and 0.96 for the first class, of space 0; 0, 1 and 0.8 for the second, of space 2.
    scores = ease.scores(features, prototypes, torch.tensor([0, 2]))
    assert torch.allclose(scores, torch.tensor([[1 + 0.05 * 0.96, 0.8 + 0.05]]), atol=1e-6)
    alone = ease.scores(features[:, :1], prototypes[:, :1], torch.tensor([0, 0]))
    assert torch.allclose(alone, torch.tensor([[1.0, 0.0]]), atol=1e-6)


def test_ease_has_mean_features_in_every_space_it_has_data_for() -> None:
    model = _model("ease")
    assert isinstance(model, Ease)
    _train(model, [4, 0])
    before = model.prototypes.clone()
    _train(model, [5])
    assert model.prototypes.shape == (3, 2, 64)
    assert model.spaces.tolist() == [0, 0, 1]
    tokens = make_split([5], 8, seed=5).tokens
    with torch.no_grad():
        for space, adapters in enumerate(model.adapters):
            features = model.backbone(tokens, Additions(adapters=adapters))  # type: ignore[arg-type]
            assert torch.allclose(model.prototypes[2, space], features.mean(0), atol=1e-5)
    assert torch.equal(model.prototypes[:2, :1], before)
    guessed = ease.synthesise(before, torch.tensor([0, 0]), model.prototypes[2:])
    assert torch.equal(model.prototypes[:2, 1], guessed)
    model.train()
    assert torch.equal(model.logits(tokens).argmax(1), torch.full((8,), 2))


@pytest.mark.parametrize("name", REFERENCES)
def test_a_phase_changes_its_own_parameters_and_nothing_else(name: str) -> None:
    model = _model(name)
    frozen = {n: v.clone() for n, v in model.backbone.state_dict().items()}
    _train(model, [4, 0])
    before = {n: v.clone() for n, v in model.state_dict().items()}
    _train(model, [2, 5])
    after = model.state_dict()
    assert all(torch.equal(model.backbone.state_dict()[n], v) for n, v in frozen.items())
    assert not model.backbone.training
    # Old classes' weights are not pushed down by data that cannot speak for them.
    for part in ("head.weight", "head.bias"):
        assert torch.equal(after[part][:2], before[part])
    assert after["head.weight"][2:].abs().max() > 0
    changed = {
        n for n, v in before.items() if not n.startswith(("backbone.", "head.")) and not torch.equal(after[n], v)
    }
    added = {n for n in after if n not in before}
    shared = {"l2p": {"prompts", "keys"}, "dualprompt": {"general"}, "ease": set()}[name]
    assert changed == shared
    own = {
        "l2p": set(),
        "dualprompt": {"experts.1", "keys.1"},
        "ease": {n for n in after if n.startswith("adapters.1.")},
    }
    assert added == own[name]
    fresh = _model(name)
    fresh.add_classes(make_split([4, 0], 2))
    fresh.add_classes(make_split([2, 5], 2))
    assert all(not torch.equal(after[n], v) for n, v in fresh.state_dict().items() if n in added)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_run_learns_and_remembers_without_a_memory(name: str, tmp_path: Path) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, base_epochs=8, ssf_epochs=8, head_lr=0.03))
    lines = _run(name, tmp_path, config)
    assert [line.classes_seen for line in lines] == [2, 4, 6]
    assert lines[0].accuracy > 0.9
    chance = 1 / 6
    assert lines[-1].accuracy > 2.5 * chance
    assert lines[-1].accuracy_new > 2 * chance
    assert lines[-1].accuracy_old is not None
    assert all(line.exemplars == line.bytes_used == line.budget_bytes == 0 for line in lines)
    assert all(line.by_modality == {} for line in lines)
    assert all(line.train_seconds > 0 for line in lines)
    # Not the phase that methods with a memory share.
    assert not (tmp_path / "base.pt").exists()


@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize("where", ["train", "evaluate"])
@pytest.mark.parametrize("name", REFERENCES)
def test_an_interrupted_run_goes_on_to_the_same_results(
    name: str, where: str, phase: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(name, tmp_path / "whole")
    cut_in = {"train": (method_run, "train_phase"), "evaluate": (method_run, "evaluate_phase")}[where]
    original, calls = getattr(*cut_in), 0

    def cut(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == phase + 1:
            raise PowerCutError
        return original(*args, **kwargs)

    monkeypatch.setattr(*cut_in, cut)
    with pytest.raises(PowerCutError):
        _run(name, tmp_path / "parts")
    monkeypatch.setattr(*cut_in, original)
    resumed = _run(name, tmp_path / "parts")
    assert _figures(resumed) == _figures(whole)
    states = [torch.load(tmp_path / part / name / "checkpoint.pt", weights_only=True) for part in ("whole", "parts")]
    for stored in states[0]["own"]:
        assert torch.equal(*(state["own"][stored] for state in states))
    monkeypatch.setattr("learner.run.method_run.train_phase", None)
    assert _run(name, tmp_path / "parts") == resumed


def _figures(metrics: list[PhaseMetrics]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(line).items() if "seconds" not in name} for line in metrics]


@pytest.mark.parametrize("name", REFERENCES)
def test_another_seed_starts_elsewhere_and_the_same_one_does_not(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        model = _model(name, seed)
        model.add_classes(make_split([4, 0], 2))
        states.append(model.tuned_state()["own"])
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert any(not torch.equal(states[0][n], states[2][n]) for n in states[0])


def test_references_take_rates_alone_and_none_of_the_runs_techniques() -> None:
    assert {name for name, base in BASES.items() if base.model != "ssf"} == set(REFERENCES)
    for name in REFERENCES:
        with pytest.raises(ValueError, match=f"{name} is a reference as published: parts of it are addedNN and headNN"):
            parse_method(f"{name}+added3+colour")
        rates = parse_method(f"{name}+added7+head2").configure(LearnerConfig()).train
        assert (rates.added_lr, rates.head_lr) == (0.007, 0.002)
        method = parse_method(name)
        assert (method.stores, method.shares_base) == ("nothing", False)
        assert method.configure(LearnerConfig()).train.masked_views == 0
    with pytest.raises(ValueError, match="addedNN is the rate of what l2p, dualprompt and ease add"):
        parse_method("masked+added3")


def test_their_own_base_phases_are_counted_and_the_shared_one_once() -> None:
    def lines(method: str, base: float) -> list[PhaseMetrics]:
        fields: dict[str, Any] = dict.fromkeys(PhaseMetrics.__dataclass_fields__, 0.0)
        fields |= {"method": method, "evaluate_seconds": 1.0}
        return [
            PhaseMetrics(**(fields | {"phase": phase, "train_seconds": seconds}))
            for phase, seconds in ((0, base), (1, 10.0))
        ]

    results = {name: lines(name, base) for name, base in (("none", 100.0), ("l2p", 200.0), ("full", 100.0))}
    assert seconds_spent(results) == 3 * (10 + 2) + 100 + 200


def test_runs_begin_when_the_base_phase_that_they_share_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[tuple[str, int]] = []
    monkeypatch.setattr(jobs, "train_base", lambda task: began.append(("base", task.job.seed)))

    def run_job(task: jobs.Task) -> list[PhaseMetrics]:
        began.append((task.job.method, task.job.seed))
        return []

    monkeypatch.setattr(jobs, "run_job", run_job)

    def work_off(*methods: str) -> None:
        plan = replace(plans.quick(), methods=methods, charted=(), seeds=(0, 1), memories=(5,))
        tasks = [jobs.Task(plan, job, 1000, "http://nowhere", tmp_path, None, 1) for job in plan.jobs()]
        with ThreadPoolExecutor(1) as pool:
            assert sorted(task.job.seed for task, _ in jobs.work_off(pool, tasks)) == sorted(
                job.seed for job in plan.jobs()
            )

    work_off("none", "ease", "joint")
    assert sorted(began) == [(name, seed) for name in ("base", "ease", "joint", "none") for seed in (0, 1)]
    for seed in (0, 1):
        assert began.index(("base", seed)) < began.index(("joint", seed)) < began.index(("none", seed))
    began.clear()
    work_off("ease")
    assert sorted(began) == [("ease", 0), ("ease", 1)]


def test_all_in_one_folder_with_methods_that_have_a_memory(service: Any, tmp_path: Path) -> None:
    short = replace(CONFIG, train=replace(CONFIG.train, base_epochs=1, ssf_epochs=1))
    with MemoryClient(service.url) as client:
        run = Run(short, make_problem(phases=[[4, 0], [2]]), client, tmp_path / "beside")
        results = {name: run.run(parse_method(name)) for name in ("ease", "masked", "l2p")}
        names = [info.name for info in client.buffers() if info.name.startswith("beside-")]
    assert len(names) == 1
    assert re.fullmatch("beside-[0-9a-f]{6}-masked", names[0])
    assert [lines[-1].exemplars > 0 for lines in results.values()] == [False, True, False]
