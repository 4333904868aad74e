"""Methods as data, and the exemplars that each of them stores."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from client import MemoryClient
from learner import world
from learner.baselines import cim
from learner.memory import mrdc, scaled
from learner.memory.exemplars import Stored, by_class, record_of, what_to_store
from learner.memory.settings import MemoryConfig, Resample
from learner.model.backbones.choose import backbone_facts
from learner.model.backbones.packing import packing
from learner.model.backbones.vilt import small_vilt
from learner.model.classifier import Classifier
from learner.model.tokens import Tokens, concatenate
from learner.run import method_run
from learner.run.config import LearnerConfig
from learner.run.evaluate import PhaseMetrics, evaluate_phase
from learner.run.methods import BASES, PARTS, parse_method
from learner.run.run import Run
from learner.run.run_mark import buffer_name, mark_of
from learner.run.settings_check import check_fit
from learner.training.refit import fit_ridge
from memory_format import Record, patches_to_image
from tests.conftest import Service
from tests.learner.builders import PATCH_PX, make_split, make_tokens
from tests.learner.test_phases import CONFIG, PROBLEM, PowerCutError

SHORT = replace(CONFIG, train=replace(CONFIG.train, base_epochs=1, ssf_epochs=1))


def _model(num_layers: int = 2) -> Classifier:
    torch.manual_seed(0)
    backbone = small_vilt(
        image_size=24, patch_px=PATCH_PX, hidden_size=64, num_layers=num_layers, num_heads=1, vocab_size=200
    )
    model = Classifier(backbone, torch.device("cpu"), bf16="off")
    model.add_classes(make_split([7, 3], 4))
    torch.nn.init.normal_(model.head.weight, std=0.05)
    return model.eval()


def test_every_base_and_part_changes_what_it_says_and_nothing_else() -> None:
    config = LearnerConfig()
    with_parts = [name for name, base in BASES.items() if base.model == "ssf"]
    for base, part in itertools.product(with_parts, [*PARTS, "q77", "keep40"]):
        method = parse_method(f"{base}+{part}")
        changed = method.configure(config)
        expected = config.to_dict()
        for settings in method.settings:
            for table, fields in settings.items():
                codec = expected["memory"]["codec"]
                expected[table] |= fields
                if "id" not in expected["memory"]["codec"]:
                    expected["memory"]["codec"] = codec | expected["memory"]["codec"]
        assert changed.to_dict() == expected
        assert method.slug == f"{base}.{part}"
        assert method.stores == BASES[base].stores
    # No part is another one's double, or the default under another name (but those that name defaults).
    tables = [str(part.settings) for part in PARTS.values()]
    assert len(set(tables)) == len(tables)
    idle = {name for name in PARTS if parse_method(f"full+{name}").configure(config) == config}
    assert idle == {"herding"}


def test_later_parts_win() -> None:
    method = parse_method("masked+q10+keep25+q60")
    config = method.configure(LearnerConfig())
    assert config.memory.codec == LearnerConfig().memory.codec | {"quality": 60}
    assert (config.mask.image_threshold, config.mask.image_amount) == ("quantile", 0.25)
    assert method.label == "masked exemplars, q10, 25% kept, q60"
    long = [parse_method("masked+" + "+".join(["q10"] * 12 + [part])).slug for part in ("q11", "q12")]
    assert long[0] != long[1]
    assert [len(slug) for slug in long] == [40, 40]


@pytest.mark.parametrize("name", ["", "magic", "masked+", "masked+magic", "masked text", "full+q1000"])
def test_unknown_methods_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"(methods|parts) are (none|lossless), "):
        parse_method(name)


def _run(name: str, out: Path, service: Service, config: LearnerConfig = SHORT) -> list[PhaseMetrics]:
    with MemoryClient(service.url) as client:
        return Run(config, PROBLEM, client, out).run(parse_method(name))


def _buffer(out: Path, name: str) -> str:
    return buffer_name(mark_of(out), "", parse_method(name).slug)


def test_every_method_keeps_its_budget_and_stores_what_it_says(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="learner")
    out = tmp_path / "kinds"
    names = ["full+lossless", "full+q5", "full+mrdc", "full+px4", "cim", "grid", "random", "masked+px4"]
    names += ["masked+text", "joint"]
    config = replace(SHORT, memory=replace(CONFIG.memory, budget_bytes=15_000))
    last = {name: _run(name, out, service, config)[-1] for name in names}
    assert all(metrics.bytes_used <= 15_000 for metrics in last.values())
    assert last["joint"].exemplars == 0
    assert last["joint"].accuracy_old is not None
    assert last["full+lossless"].bytes_per_exemplar > last["full+q5"].bytes_per_exemplar
    held = {}
    with MemoryClient(service.url) as client:
        for name in names[:-1]:
            buffer = client.buffer(_buffer(out, name))
            held[name] = list(buffer.records())
            assert sum(record.charge for record in held[name]) == last[name].bytes_used
            assert {record.class_id for record in held[name]} == set(range(6))
    for name in ("full+lossless", "full+q5", "cim"):
        assert all(record.keep_mask.all() for record in held[name])
        assert all(len(record.token_ids) == record.text_length for record in held[name])
    chosen = [line.rpartition(" ") for line in caplog.messages if ": quality " in line]
    assert [words for words, *_ in chosen] == [f"full+mrdc phase {phase}: quality" for phase in range(3)]
    assert {int(quality) for *_, quality in chosen} <= {10, 25, 50, 75, 90}
    assert {record.codec_id for record in held["full+lossless"]} == {"em_webp_lossless"}
    assert any(len(record.token_ids) < record.text_length for record in held["masked+text"])
    assert not any(record.extras for record in held["masked+text"])
    for name in ("full+px4", "masked+px4"):
        assert {record.patch_px for record in held[name]} == {4}
        assert {record.grid for record in held[name]} == {record.grid for record in held["cim"]}
    assert {record.keep_mask.tobytes() for record in held["grid"]} == {held["grid"][0].keep_mask.tobytes()}
    # As many patches as attention would keep, and not the same.
    assert {record.num_kept for record in held["random"]} <= set(range(1, 9))


def test_a_growing_budget_is_so_many_full_samples_for_each_class_seen(service: Service, tmp_path: Path) -> None:
    memory = replace(CONFIG.memory, full_samples_per_class=2, full_sample_bytes=700)
    lines = _run("full", tmp_path / "growing", service, replace(SHORT, memory=memory))
    assert [line.budget_bytes for line in lines] == [2 * 1400, 4 * 1400, 6 * 1400]
    assert all(line.bytes_used <= line.budget_bytes for line in lines)


def test_all_techniques_together_resume_to_the_same_results(
    start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "masked+colour+any-order+mean-heads+sinks+text"
    service = start_service()
    whole = _run(name, tmp_path / "whole" / "run", service)
    _cut_off_behind_the_second_push(monkeypatch)
    with pytest.raises(PowerCutError):
        _run(name, tmp_path / "cut" / "run", service)
    resumed = _run(name, tmp_path / "cut" / "run", service)
    assert _figures(resumed) == _figures(whole)
    with MemoryClient(service.url) as client:
        held = [list(client.buffer(_buffer(tmp_path / part / "run", name)).records()) for part in ("whole", "cut")]
    assert held[0] == held[1]


def test_what_comes_out_otherwise_behind_the_push_is_not_pushed_again(
    start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a mask that is computed again may differ in a bit."""
    service = start_service()
    whole = _run("masked", tmp_path / "whole" / "run", service)
    _cut_off_behind_the_second_push(monkeypatch)
    folder = tmp_path / "cut" / "run"
    with pytest.raises(PowerCutError):
        _run("masked", folder, service)
    assert (folder / "masked" / "offered.npz").exists()
    original, calls = what_to_store, 0

    def otherwise_once(*args: Any) -> Stored:
        nonlocal calls
        calls += 1
        stored = original(*args)
        keep = stored.keep_patches.clone()
        keep[0, 0] ^= calls == 1
        return replace(stored, keep_patches=keep)

    monkeypatch.setattr(method_run, "what_to_store", otherwise_once)
    resumed = _run("masked", folder, service)
    assert [line.exemplars for line in resumed] == [line.exemplars for line in whole]
    assert not (folder / "masked" / "offered.npz").exists()
    with MemoryClient(service.url) as client:
        held = [
            list(client.buffer(_buffer(out / "run", "masked")).records()) for out in (tmp_path / "whole", folder.parent)
        ]
    assert held[0] == held[1]


def _cut_off_behind_the_second_push(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = evaluate_phase, 0

    def second_time(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise PowerCutError
        return original(*args, **kwargs)

    monkeypatch.setattr(method_run, "evaluate_phase", second_time)


def _figures(lines: list[PhaseMetrics]) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(line).items() if "seconds" not in k} for line in lines]


def test_a_refitted_classifier_is_tested_and_not_trained_on(
    start_service: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs train the same model; only what is asked at the test differs."""
    results, heads = [], []
    fitted: list[torch.Tensor] = []

    def fit(*arguments: Any) -> Any:
        head = fit_ridge(*arguments)
        fitted.append(head.weight)
        return head

    monkeypatch.setattr("learner.training.refit.fit_ridge", fit)
    service: Service | None = None
    for name, part in (("head", "no-refit"), ("refit", "no-translate"), ("both", "herding")):
        service, out = start_service(tmp_path / f"store-{name}"), tmp_path / name / "run"
        # Under one name, by which the memory draws.
        config = parse_method(f"masked+{part}").configure(SHORT)
        results.append([line.by_phase for line in _run("masked", out, service, config)])
        heads.append(torch.load(out / "masked" / "checkpoint.pt", weights_only=True)["head"]["weight"])
    assert service is not None
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])
    assert results[0] != results[1]
    # Six were fitted, in three phases of two runs, each run to exemplars of its own.
    assert len(fitted) == 6
    assert not any(torch.allclose(plain, translated) for plain, translated in zip(fitted[:3], fitted[3:], strict=True))
    # With all data it is fitted to all data; without a memory there is nothing to fit to.
    assert len(_run("joint", tmp_path / "both" / "run", service)) == 3
    assert len(fitted) == 9
    assert len(_run("none", tmp_path / "both" / "run", service)) == 3
    assert len(fitted) == 9


def test_the_class_activation_box_is_the_smallest_around_the_active_patches() -> None:
    tokens = make_tokens(num=3, grid=(3, 4))
    activation = torch.zeros(3, 12)
    activation[0, [1, 6]] = torch.tensor([1.0, 0.7])  # row 0 column 1, row 1 column 2
    activation[0, 11] = 0.5  # below the threshold
    activation[1, 5] = 2.0
    box = cim.activation_box(activation, tokens)
    assert box[0].nonzero().flatten().tolist() == [1, 2, 5, 6]
    assert box[1].nonzero().flatten().tolist() == [5]
    assert box[2].all()  # active nowhere: all is kept


def test_grad_cam_is_what_finite_differences_say() -> None:
    """The weights are the mean gradient of the class's logit over the patches entering the last block."""
    model = _model()
    tokens, targets = make_tokens(num=2), torch.tensor([0, 1])
    activation = cim.class_activation(model, tokens, targets)
    model.double()
    backbone: Any = model.backbone
    last = backbone.layers[-1]
    first_patch = tokens.token_ids.shape[1] + 1
    seen: list[torch.Tensor] = []
    shift = torch.zeros(64, dtype=torch.double)

    def enter(module: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        packed: Any = args[1]
        hidden = packed.unpack(args[0])
        seen.append(hidden[:, first_patch:].clone())
        hidden[:, first_patch:] += shift
        return (packed.pack(hidden), *args[1:])

    handle = last.register_forward_pre_hook(enter)

    @torch.no_grad()
    def score() -> torch.Tensor:
        hidden, valid = backbone._embed(tokens)
        packed = packing(valid, dense=True)
        entered = packed.unpack(backbone._encode(packed.pack(hidden.double()), packed))
        features = backbone.layernorm(entered[:, 0])
        scores: torch.Tensor = model.head(features).gather(1, targets[:, None])[:, 0]
        return scores

    start = score()
    weights = torch.zeros(2, 64, dtype=torch.double)
    for channel in range(64):
        shift[channel] = 1e-5
        weights[:, channel] = (score() - start) / 1e-5 / 9
        shift[channel] = 0.0
    handle.remove()
    expected = (seen[0] * weights[:, None]).sum(-1).relu()
    assert torch.allclose(activation.double(), expected, atol=1e-3 * float(expected.max()))
    assert expected.max() > 0


def test_outside_the_box_cells_are_flat_and_inside_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_tokens(num=2)
    activation = torch.zeros(2, 9)
    activation[:, 4] = 1.0
    monkeypatch.setattr(cim, "class_activation", lambda model, tokens, targets: activation)
    boxed: Tokens = cim.compress(_model(), tokens, torch.tensor([0, 1]))
    assert torch.equal(boxed.patches[:, 4], tokens.patches[:, 4])
    cells = boxed.patches[:, 0].reshape(2, 2, 4, 2, 4, 3)
    assert (cells == cells[:, :, :1, :, :1]).all()
    assert torch.allclose(
        cells[:, :, 0, :, 0].float(), tokens.patches[:, 0].reshape(2, 2, 4, 2, 4, 3).float().mean((2, 4)), atol=0.51
    )
    with pytest.raises(ValueError, match="cells of 3 px"):
        cim.averaged(tokens.patches, 3)


@pytest.mark.parametrize("resample", get_args(Resample))
def test_patches_that_are_shrunk_come_back_at_full_size(resample: Resample) -> None:
    """Two grids in one batch; of even colours nothing is lost, whichever patches are kept."""
    flat = torch.tensor([[200, 10, 30], [5, 100, 250]], dtype=torch.uint8)
    tokens = concatenate([make_tokens(num=1, grid=(4, 6)), make_tokens(num=1, grid=(2, 2), seed=1)])
    colour = flat[:, None, None, None].expand_as(tokens.patches)
    tokens = replace(tokens, patches=torch.where(tokens.patch_valid[:, :, None, None, None], colour, 0))
    for kept in (tokens, tokens.keep_patches(torch.rand(2, 24, generator=torch.Generator().manual_seed(0)) < 0.4)):
        small = scaled.shrink(kept, 8, resample)
        assert small.patch_px == 8
        large = scaled.enlarge(small, tokens.patch_px)
        for name, values in vars(kept).items():
            assert torch.equal(getattr(large, name), values), name


def test_a_cell_of_a_patch_that_is_shrunk_is_its_mean_or_the_pixel_in_its_midst() -> None:
    tokens = make_tokens(num=1, grid=(4, 4))
    picture = torch.from_numpy(patches_to_image(tokens.patches[0].numpy(), (4, 4))).float()
    side = tokens.patch_px
    cells = picture.reshape(2 * side, 2, 2 * side, 2, 3)
    for resample, expected in (("area", cells.mean((1, 3)).round()), ("pixel", cells[:, 1, :, 1])):
        small = scaled.shrink(tokens, side // 2, resample)  # type: ignore[arg-type]
        found = torch.from_numpy(patches_to_image(small.patches[0].numpy(), (4, 4))).float()
        assert torch.equal(found, expected), resample


def test_patches_are_enlarged_as_parts_of_their_picture() -> None:
    """Over the edges between patches that are there; what is next to a gap depends on nothing in it."""
    tokens = scaled.shrink(make_tokens(num=1, grid=(3, 4)), 8)
    picture = torch.from_numpy(patches_to_image(tokens.patches[0].numpy(), (3, 4))).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(picture, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
    whole = torch.from_numpy(patches_to_image(scaled.enlarge(tokens, 16).patches[0].numpy(), (3, 4))).float()
    assert (whole - large).abs().max() <= 0.5
    keep = torch.zeros(1, 12, dtype=torch.bool)
    keep[0, [0, 1, 6]] = True
    dark = replace(tokens, patches=torch.where(keep[:, :, None, None, None], tokens.patches, 0))
    for others in (tokens, dark):
        part = scaled.enlarge(others.keep_patches(keep), 16)
        assert part.patch_positions.tolist() == [[0, 1, 6]]
        inner = part.patches[0, 2, 1:-1, 1:-1].float()
        assert (inner - large[17:31, 33:47]).abs().max() <= 0.5
        assert (part.patches[0, 0, :15].float() - large[:15, :16]).abs().max() <= 0.5
        edge = part.patches[0, 2, 0, 1:-1].float()
        own = torch.nn.functional.interpolate(
            tokens.patches[:, 6].permute(0, 3, 1, 2).float(), scale_factor=2, mode="bilinear"
        )[0].permute(1, 2, 0)
        assert (edge - own[0, 1:-1]).abs().max() <= 0.5


def test_volumes_tell_how_much_a_codec_changed_features() -> None:
    angles = torch.tensor([0.0, torch.pi / 2, torch.pi / 6])
    right, narrow = (torch.stack([angles[[0, n]].cos(), angles[[0, n]].sin()], 1) for n in (1, 2))
    assert mrdc.ratio([3 * right], [right]) == pytest.approx(1)
    assert mrdc.ratio([right], [narrow]) == pytest.approx(0.25)
    assert mrdc.ratio([right, narrow], [narrow, right]) == pytest.approx(1)
    # The same sample twice spans nothing.
    assert mrdc.ratio([right, right[:1].repeat(2, 1)], [narrow, right]) == pytest.approx(0.25)
    assert mrdc.ratio([right[:1].repeat(2, 1)], [right]) == float("inf")
    # Nor do more samples than dimensions, of which rounding leaves a determinant that is not zero.
    many = torch.randn((2, 40, 16), generator=torch.Generator().manual_seed(0))
    assert mrdc.ratio([many[0]], [many[1]]) == float("inf")
    assert mrdc.ratio([many[0], right], [many[1], narrow]) == pytest.approx(0.25)


def test_the_lowest_quality_that_changes_features_little_enough_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = _model(), make_split([7, 3], 6)
    stored, features = Stored.whole(split.tokens), by_class(model.features(split.tokens), split.class_ids)

    def chosen(tolerance: float, share_bytes: float) -> object:
        monkeypatch.setattr(mrdc, "TOLERANCE", tolerance)
        codec = mrdc.at_chosen_quality(
            model,
            split.class_ids,
            stored,
            features,
            memory=CONFIG.memory,
            share_bytes=share_bytes,
            rng=np.random.default_rng(0),
        )
        return codec["quality"]

    assert chosen(1e9, 10_000) == 10
    assert chosen(0, 10_000) == 90
    # One alone has the volume 1.
    assert chosen(1e-9, 1) == 10
    rows: list[int] = []

    def count(stored: Stored, sample: int, **fields: object) -> Record:
        rows.append(sample)
        return record_of(stored, sample, **fields)

    # As the first of two ranks, which has the first of two classes; both have as many samples.
    monkeypatch.setattr(mrdc, "record_of", count)
    monkeypatch.setattr(world, "each", lambda items, do: 2 * [do(items[0])])
    assert chosen(1e9, 10_000) == 10
    assert set(split.class_ids[rows].tolist()) == {7}
    for names in ("full+lossless+mrdc", "full+mrdc+lossless"):
        with pytest.raises(ValueError, match="quality"):
            parse_method(names).configure(CONFIG)


def test_patches_have_no_more_pixels_in_the_memory_than_the_backbones() -> None:
    with pytest.raises(ValueError, match="stores no pixels"):
        parse_method("latent+keep4+last1+px8").configure(CONFIG)
    config = parse_method("masked+px32").configure(CONFIG)
    with pytest.raises(ValueError, match="backbone's patches have 8 px"):
        check_fit(config, backbone_facts(config.backbone))
    with pytest.raises(ValueError, match="patch_px"):
        MemoryConfig(patch_px=256)
