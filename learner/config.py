"""Everything a run can be told, as frozen values. They are stored with the run; the defaults are the demo's."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from learner.head import HeadKind
from learner.masks import MaskConfig
from learner.ranges import FINITE, LARGEST, within
from learner.run_mark import BUFFER_NAME
from learner.selection import Selection
from learner.techniques.fill import FillSource
from memory_format import ExemplarMemoryError, make_codec
from memory_format.codecs import MAX_SIDE_PX

C = TypeVar("C")

MAX_BATCH, MAX_BUDGET_BYTES = 4096, 2**50
"""What the service takes at most: records a draw, bytes a buffer."""

BackboneKind = Literal["parts", "small", "pretrained"]
DataName = Literal["emoji", "imagenet-r", "food101", "folder", "hub"]
SceneChoice = Literal["any", "misleading"]
"""``any``: every sample stands in front of any scene. ``misleading``: half of a class's training samples stand in front
of the same scene, which is never behind it in the tests: who goes by the scene takes one class for another there."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what, in the table of ``folder`` and in a data set of ``hub``.

    Attributes:
        split: may be missing from the table; the split is then drawn.
    """

    image: str = "image"
    text: str = "text"
    label: str = "label"
    split: str = "split"


@dataclass(frozen=True)
class HubConfig:
    """Which part of a Hugging Face data set.

    Attributes:
        subset: its configuration, for data sets that have several.
        train_split, test_split: names of its splits; without a ``test_split`` a share of ``train_split`` is tested on.
    """

    subset: str = ""
    train_split: str = "train"
    test_split: str = "test"


@dataclass(frozen=True)
class DataConfig:
    """Which data, how much of it, and how it is cut into phases.

    Attributes:
        name: ``emoji``: MM-Emoji-R; ``imagenet-r``: MM-ImageNet-R; ``food101``: UPMC Food-101; ``folder``: a table of
            pictures, texts and classes; ``hub``: a data set of Hugging Face's ``datasets``. See docs/learner.md.
        path: the data set's folder, ``folder``'s table, or ``hub``'s name or folder.
        captions: the captions file of ``imagenet-r``; empty = ``captions.csv`` in its folder.
        num_classes, train_per_class, test_per_class: size of the subset; the last counts for each test split. 0 = all.
        interim_tests_per_class: with how many of those each phase before the last is tested, at most; 0 = all. What
            counts most is known best then, and no hour is spent on curves.
        test_share: of each class, where the data has no test split of its own.
        split_seed: draws that split, and the samples of a subset.
        bad_pictures: missing and damaged ones end the run before it starts, or are left out.
        image_size: short side of the pictures in pixels.
        scenes: of ``emoji``: ``any``, or ``misleading`` ones (:data:`SceneChoice`).
        base_classes: classes of phase 0.
        classes_per_phase: classes of every later phase.
        max_text_tokens: longer texts are cut.
        class_order: in which order classes come: ``seeded``, shuffled; ``natural``, as the data set has them, for
            pictures in files by their labels; a list of classes, by name or by number in the natural order; or a file
            that has one a line.
        class_order_seed: shuffles the classes.
    """

    name: DataName = "emoji"
    path: str = ""
    captions: str = ""
    columns: Columns = field(default_factory=Columns)
    hub: HubConfig = field(default_factory=HubConfig)
    num_classes: int = 18
    train_per_class: int = 32
    test_per_class: int = 10
    interim_tests_per_class: int = 0
    test_share: float = 0.2
    split_seed: int = 0
    bad_pictures: Literal["error", "skip"] = "error"
    image_size: int = 112
    scenes: SceneChoice = "any"
    base_classes: int = 6
    classes_per_phase: int = 3
    max_text_tokens: int = 40
    class_order: str | tuple[str | int, ...] = "seeded"
    class_order_seed: int = 0

    def __post_init__(self) -> None:
        within(self, 1, LARGEST, "base_classes", "classes_per_phase")
        within(self, 0, LARGEST, "num_classes", "train_per_class", "test_per_class", "interim_tests_per_class")
        within(self, 0, LARGEST, "split_seed", "class_order_seed")
        within(self, 1, MAX_SIDE_PX, "image_size")
        if not self.class_order or not all(type(entry) in (str, int) for entry in self.class_order):
            raise ValueError(
                "class_order is natural, seeded, a list of names or numbers of classes, or a file with one a line; "
                f"got {self.class_order!r}"
            )
        if 0 < self.num_classes < self.base_classes:
            raise ValueError(f"base_classes must lie in 1..num_classes, got {self.base_classes} of {self.num_classes}")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must lie between 0 and 1, got {self.test_share}")
        within(self, 2, 2**16, "max_text_tokens")  # [CLS] and [SEP] at least

    @property
    def title(self) -> str:
        """What people call the data set."""
        titles = {"emoji": "MM-Emoji-R", "imagenet-r": "MM-ImageNet-R", "food101": "UPMC Food-101"}
        return titles.get(self.name, self.path)


@dataclass(frozen=True)
class BackboneConfig:
    """The model.

    Attributes:
        kind: ``parts``: DINOv2-S blocks + MiniLM words; ``small``: random weights; ``pretrained``: a ViLT checkpoint.
        name: hub id or folder for ``pretrained``.
        blocks: which DINOv2 blocks ``parts`` takes.
        hidden_size, num_layers: of ``small``; heads are 64 wide.
    """

    kind: BackboneKind = "parts"
    name: str = "dandelin/vilt-b32-mlm"
    blocks: tuple[int, ...] = tuple(range(12))
    patch_px: int = 16
    hidden_size: int = 192
    num_layers: int = 6

    def __post_init__(self) -> None:
        if not self.blocks or not all(type(block) is int and 0 <= block < 12 for block in self.blocks):
            raise ValueError(f"blocks must name some of DINOv2's 0..11, as in [0, 1, 2], got {list(self.blocks)}")
        within(self, 1, 1024, "patch_px", "num_layers")
        within(self, 1, 2**14, "hidden_size")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of its {self.num_heads} heads (one for each 64), got "
                f"{self.hidden_size}"
            )

    @property
    def num_heads(self) -> int:
        """Of ``small``."""
        return max(1, self.hidden_size // 64)


@dataclass(frozen=True)
class TrainConfig:
    """How phases are trained.

    Attributes:
        base_tunes: what phase 0 trains beside the head: ``ssf`` alone, as all later phases, or the whole ``backbone``.
        ssf_layers: how many of the last layers SSF tunes; 0 = all. The others stay as they are and need no backward
            pass.
        base_epochs, ssf_epochs: passes over the new data in phase 0 and in each later phase.
        base_lr, ssf_lr, head_lr: highest learning rates of the whole backbone, of SSF and of the head.
        added_lr: that of what L2P, DualPrompt and EASE add to their frozen backbone.
        head: the classifier.
        clip_norm: largest norm of a step's gradient.
        batch_size: new samples a step; replay adds as many.
        masked_views: share of the new (and of full replayed) samples shown as their masked view, so that few tokens
            do not come to mean an old class.
        patch_drop, word_drop: random drop of kept tokens of replayed exemplars and of words.
        fill: share of masked exemplars whose dropped places are filled.
        fill_from: with what (:mod:`learner.techniques.fill`).
        repair_text: share of replayed exemplars that get the text of another of their class (done by the service).
        flip: share of all samples that are mirrored.
        colour: how far brightness, contrast and saturation of a sample move at most, as a share; 0 = not at all.
        distill: weight of the loss that keeps old classes' logits where the previous phase's model had them
            (:mod:`learner.techniques.distill`); 0 = off, as for the next.
        stored_logits: weight of the loss that keeps replayed exemplars' logits where they were when stored
            (:mod:`learner.techniques.stored_logits`).
        weight_align: rescale the new classes' weights after each phase (:mod:`learner.techniques.weight_align`); for
            the linear head.
        balance: how much of a class's share in a phase's steps the loss takes out
            (:mod:`learner.techniques.balance`); 1 = all.
        refit: test with a classifier that is fitted to the exemplars (:mod:`learner.techniques.refit`), where there
            is a memory.
        translate: fit that classifier to what the exemplars' whole pictures would give
            (:mod:`learner.techniques.translate`).
        two_views: test with the sum of the scores of the whole sample and of its masked view.
        modality_drop: share of base-phase samples without a picture, and the same share without words.
        bf16: ``auto``: bfloat16 where the hardware has it.
        compile: compile the backbone's blocks by ``torch.compile``: a minute or more at the start, for quicker steps. A
            CPU needs a C++ compiler for it.
        decode_on_device: decode replayed JPEG exemplars on the model's device; needs ``memory.codec`` to be JPEG.
    """

    base_tunes: Literal["ssf", "backbone"] = "ssf"
    ssf_layers: int = 0
    base_epochs: int = 12
    base_lr: float = 1e-4
    ssf_epochs: int = 3
    ssf_lr: float = 3e-3
    head: HeadKind = "linear"
    clip_norm: float = 1.0
    head_lr: float = 3e-3
    added_lr: float = 3e-3
    batch_size: int = 24
    weight_decay: float = 0.05
    masked_views: float = 0.5
    patch_drop: float = 0.15
    word_drop: float = 0.1
    fill: float = 0.5
    fill_from: FillSource = "new"
    repair_text: float = 0.25
    flip: float = 0.0
    colour: float = 0.0
    distill: float = 0.0
    stored_logits: float = 0.0
    weight_align: bool = False
    balance: float = 0.0
    refit: bool = True
    translate: bool = True
    two_views: bool = False
    modality_drop: float = 0.15
    bf16: Literal["auto", "on", "off"] = "auto"
    compile: bool = False
    decode_on_device: bool = False

    def __post_init__(self) -> None:
        within(self, 0, 1, "masked_views", "patch_drop", "word_drop", "fill", "repair_text", "flip", "colour")
        within(self, 0, 0.5, "modality_drop")  # counts for each of two modalities
        within(self, 0, 10**9, "base_epochs", "ssf_epochs", "ssf_layers")
        within(self, 1, MAX_BATCH, "batch_size")
        within(self, 0, FINITE, "base_lr", "ssf_lr", "head_lr", "added_lr", "weight_decay")
        within(self, 0, FINITE, "distill", "stored_logits", "balance")
        within(self, 1e-9, FINITE, "clip_norm")
        if self.weight_align and self.head != "linear":
            raise ValueError("weight_align needs head = linear: a cosine head does not look at lengths")
        if self.translate and not self.refit:
            raise ValueError("translate needs refit, the classifier that it is for: turn both off, or leave both on")


@dataclass(frozen=True)
class WarmupConfig:
    """The vision-language warm-up before the base phase (:mod:`learner.warmup`).

    Attributes:
        epochs: passes over the base phase's data; 0 = no warm-up.
        lr: highest learning rate of the backbone, ``text_lr_factor`` times that for the text's projection and layer
            norm, which have the longest way to go; ``head_lr`` for the heads of the two objectives.
        word_mask: share of words that are masked.
        modality_drop: share of samples without a picture, and the same share without words.
        mask_token_id: ``[MASK]`` of the vocabulary; BERT's by default.
    """

    epochs: int = 0
    lr: float = 1e-4
    text_lr_factor: float = 10.0
    head_lr: float = 1e-3
    word_mask: float = 0.3
    modality_drop: float = 0.15
    batch_size: int = 24
    mask_token_id: int = 103

    def __post_init__(self) -> None:
        within(self, 0, 10**9, "epochs")
        within(self, 0, FINITE, "lr", "text_lr_factor", "head_lr")
        within(self, 1e-9, 0.999, "word_mask")
        within(self, 0, 0.5, "modality_drop")
        within(self, 1, MAX_BATCH, "batch_size")
        within(self, 0, LARGEST, "mask_token_id")


@dataclass(frozen=True)
class MemoryConfig:
    """What is stored.

    Attributes:
        budget_bytes: of the buffer, for all classes.
        full_samples_per_class: where not 0, the budget is instead so many full samples for each class seen, and
            grows with them.
        full_sample_bytes: what one full sample is taken to cost in that case.
        codec: numcodecs configuration of the patch codec; full and masked exemplars use the same.
        selection: order within a class.
        rerank: put the exemplars held into a new order by each phase's model, before its new classes make the room
            smaller.
        buffer: what buffers are called, ``<buffer>-<method>``; empty = after the run's folder and id
            (:mod:`learner.run_mark`).
        snapshots: take a snapshot of the memory after each phase, ``phase-0``, ``phase-1`` and so on: what was
            held then can be listed and drawn from later. What they keep of evicted exemplars is on the disk of the
            service, and not in the budget.
    """

    budget_bytes: int = 50_000
    full_samples_per_class: int = 0
    full_sample_bytes: int = 0
    codec: dict[str, Any] = field(default_factory=lambda: {"id": "em_webp", "quality": 30})
    selection: Selection = "herding"
    rerank: bool = False
    buffer: str = ""
    snapshots: bool = True

    def __post_init__(self) -> None:
        within(self, 1, MAX_BUDGET_BYTES, "budget_bytes")
        within(self, 0, MAX_BUDGET_BYTES, "full_samples_per_class", "full_sample_bytes")
        if self.full_samples_per_class * self.full_sample_bytes > MAX_BUDGET_BYTES or (
            self.full_samples_per_class > 0
        ) != (self.full_sample_bytes > 0):
            raise ValueError(
                "full_samples_per_class and full_sample_bytes go together: both positive, or both 0, and at most 1 PiB"
            )
        try:
            make_codec(self.codec)
        except (ExemplarMemoryError, OverflowError) as error:
            raise ValueError(f"codec: {error}") from error
        if self.buffer and not BUFFER_NAME.fullmatch(self.buffer):
            raise ValueError(
                f"buffer is 1..22 of a-z 0-9 . _ - and begins with a letter or digit, or empty; got {self.buffer!r}"
            )

    @property
    def grows(self) -> bool:
        """Whether the budget grows with the classes seen."""
        return self.full_samples_per_class > 0

    def disk_limit_bytes(self, num_classes: int, num_phases: int) -> int | None:
        """What the buffer may take on disk: room for what every snapshot may keep; None = the service's default.

        Args:
            num_classes: in all phases.
            num_phases: each of which leaves a snapshot.
        """
        largest = self.full_samples_per_class * self.full_sample_bytes * num_classes or self.budget_bytes
        return (num_phases + 1) * largest + 2**20 if self.snapshots else None


@dataclass(frozen=True)
class LearnerConfig:
    """One run."""

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(text=False))
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        within(self, 0, LARGEST, "seed")
        if self.train.decode_on_device and self.memory.codec["id"] != "em_jpeg":
            raise ValueError('train.decode_on_device needs JPEG exemplars: memory.codec = {id = "em_jpeg"}')

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_settings(items: Iterable[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Settings for :func:`with_settings`, with those of items like ``train.base_epochs=2`` put into them.

    Args:
        items: values are as in TOML; strings may do without quotes.
        settings: tables and their fields; later ones win.

    Raises:
        ValueError: no ``=`` in one, or a setting within what is a value.
    """
    for item in items:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set takes KEY=VALUE, got {item!r}")
        table = settings
        *path, name = key.split(".")
        for part in path:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise ValueError(f"{part} is set to {table!r}, so {key} cannot be set")
        try:
            table[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            table[name] = value
    return settings


def with_settings(config: C, settings: Mapping[str, Any], where: str = "") -> C:
    """A configuration with some of its fields changed, tables within tables.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    known = {entry.name: getattr(config, entry.name) for entry in fields(config)}  # type: ignore[arg-type]
    hints = get_type_hints(type(config))
    changes = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"unknown setting {where}{name}; known: {', '.join(known)}")
        present = known[name]
        if is_dataclass(present):
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"{where}{name} is a table of settings, got {value!r}; set one, as in {where}{name}.KEY"
                )
            value = with_settings(present, value, f"{where}{name}.")
        elif isinstance(present, dict) and isinstance(value, dict):
            # A codec by its id is another one; without, it is the present one with other options.
            value = value if "id" in value else {**present, **value}
        elif isinstance(value, list) and any(
            get_origin(kind) is tuple for kind in (hints[name], *get_args(hints[name]))
        ):
            value = tuple(value)
        elif isinstance(present, float) and type(value) is int:
            value = float(min(max(value, -LARGEST), LARGEST))  # no float is beyond what any range has
        elif type(value) is not type(present):
            kind = "a list" if isinstance(present, tuple) else type(present).__name__
            raise ValueError(f"{where}{name} must be {kind}, got {value!r}")
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"{where}{name} must be text without NUL, got {value!r}")
        elif get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise ValueError(f"{where}{name} must be one of {', '.join(get_args(hints[name]))}, got {value!r}")
        changes[name] = value
    try:
        return replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{where[:-1]}: {error}" if where else str(error)) from error
