"""Everything a run can be told, as frozen values. They are stored with the run.

The defaults are the demo's; data of one's own has others for sizes and budget (:mod:`learner.run.overrides`). Every
field is described under ``Attributes``: ``learner config`` and docs/reference/learner-settings.md are made of these
words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from learner.memory.selection import Selection
from learner.model.attention_masks import MaskConfig
from learner.model.head import HeadKind
from learner.ranges import FINITE, LARGEST, within
from learner.run.run_mark import BUFFER_NAME
from learner.training.techniques.fill import FillSource
from memory_format import ExemplarMemoryError, make_codec
from memory_format.codecs import MAX_SIDE_PX

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
        image: path of the picture, relative to the table; empty = the data is texts only.
        text: the picture's text, or a list of texts. Where there is no such column, the data is pictures only.
        label: the class.
        split: ``train``, ``test``, ``test-NAME`` or ``val``. Where there is no such column, the split is drawn.
    """

    image: str = "image"
    text: str = "text"
    label: str = "label"
    split: str = "split"


@dataclass(frozen=True)
class HubConfig:
    """Which part of a Hugging Face data set.

    Attributes:
        subset: which configuration, of data sets that have several.
        train_split: name of the split to train on.
        test_split: name of the split to test on; empty = a share of each class of ``train_split``.
    """

    subset: str = ""
    train_split: str = "train"
    test_split: str = "test"


@dataclass(frozen=True)
class DataConfig:
    """Which data, how much of it, and how it is cut into phases.

    Attributes:
        name: ``emoji``: MM-Emoji-R; ``imagenet-r``: MM-ImageNet-R; ``food101``: UPMC Food-101; ``folder``: pictures in
            class folders, or a table of pictures, texts and classes; ``hub``: a data set of Hugging Face's
            ``datasets``. See docs/learner.md.
        path: the data set's folder, ``folder``'s table, or ``hub``'s name or folder.
        captions: the captions file of ``imagenet-r`` and of class folders; empty = ``captions.csv`` in their folder.
        columns: names of columns, where they are others.
        hub: which part of a data set of ``hub``.
        num_classes: so many classes, those with the most samples; 0 = all.
        train_per_class: so many samples of a class to train on, at most; 0 = all.
        test_per_class: so many samples of a class in each split to test on, at most; 0 = all.
        interim_tests_per_class: the same in each phase before the last; 0 = all. What counts most is known best then,
            and no hour is spent on curves.
        test_share: share of each class that is tested on, where the data has no split of its own.
        split_seed: seed of that split, and of the samples of a subset.
        bad_pictures: missing and damaged pictures end the run before it starts (``error``), or are left out (``skip``).
        image_size: short side of the pictures in pixels.
        scenes: of ``emoji``: ``any``, or ``misleading``: half of a class's training samples stand in front of the same
            scene, which is never behind it in the tests.
        base_classes: classes of phase 0; 0 = a third of them.
        classes_per_phase: classes of every later phase; 0 = so many that there are four later phases.
        max_text_tokens: word pieces of a text, at most; longer texts lose their end.
        class_order: in which order classes come: ``seeded``, shuffled; ``natural``, as the data set has them, for
            pictures in files by their labels; a list of classes, by name or by number in the natural order; or a file
            that has one a line.
        class_order_seed: seed of the ``seeded`` order.
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
        within(self, 0, LARGEST, "base_classes", "classes_per_phase")
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
        patch_px: side of a patch in pixels; that of a ``pretrained`` backbone is its own unless it is set.
        hidden_size: width of ``small``; its heads are 64 wide.
        num_layers: layers of ``small``.
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
        base_epochs: passes over the data of phase 0.
        base_lr: highest learning rate of the whole backbone.
        ssf_epochs: passes over the new data of each later phase.
        ssf_lr: highest learning rate of SSF.
        head_lr: highest learning rate of the head.
        added_lr: highest learning rate of what L2P, DualPrompt and EASE add to their frozen backbone.
        head: the classifier: ``linear``, or ``cosine``, which does not look at lengths.
        clip_norm: largest norm of a step's gradient.
        batch_size: new samples a step; replay adds as many.
        weight_decay: AdamW's, but for SSF, which has none.
        masked_views: share of the new (and of full replayed) samples shown as their masked view, so that few tokens
            do not come to mean an old class.
        patch_drop: share of the patches of replayed exemplars that are dropped at random.
        word_drop: share of all words that are dropped at random.
        fill: share of masked exemplars whose dropped places are filled.
        fill_from: what they are filled with: patches of a ``new`` picture, of its ``background`` only, of what another
            exemplar of the ``batch`` kept, or the ``mean`` colour of the exemplar itself.
        repair_text: share of replayed exemplars that get the text of another of their class (done by the service).
        flip: share of all samples that are mirrored.
        colour: how far brightness, contrast and saturation of a sample move at most, as a share; 0 = not at all.
        distill: weight of the loss that keeps old classes' logits where the previous phase's model had them
            (:mod:`learner.training.techniques.distill`); 0 = off.
        stored_logits: weight of the loss that keeps replayed exemplars' logits where they were when stored
            (:mod:`learner.training.techniques.stored_logits`); 0 = off.
        weight_align: rescale the new classes' weights after each phase
            (:mod:`learner.training.techniques.weight_align`); for the linear head.
        balance: how much of a class's share in a phase's steps the loss takes out
            (:mod:`learner.training.techniques.balance`); 1 = all.
        refit: test with a classifier that is fitted to the exemplars (:mod:`learner.training.techniques.refit`),
            where there is a memory.
        translate: fit that classifier to what the exemplars' whole pictures would give
            (:mod:`learner.training.techniques.translate`).
        two_views: test with the sum of the scores of the whole sample and of its masked view.
        modality_drop: share of base-phase samples that are shown without their picture, and the same share without
            their words; those that have only one of both keep it.
        bf16: train in bfloat16; ``auto``: where the hardware has it.
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
    """The vision-language warm-up before the base phase (:mod:`learner.training.warmup`).

    Attributes:
        epochs: passes over the base phase's data; 0 = no warm-up.
        lr: highest learning rate of the backbone.
        text_lr_factor: so many times that rate for the text's projection and layer norm, which have the longest way.
        head_lr: highest learning rate of the heads of the two objectives.
        word_mask: share of words that are masked.
        modality_drop: share of samples that are shown without their picture, and the same share without their words.
        batch_size: samples a step.
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
        budget_bytes: bytes of the buffer, for all classes; 0 = room for five full samples of each class, or for a
            quarter of them where there are fewer than twenty.
        full_samples_per_class: where not 0, the budget is instead so many full samples for each class seen, and
            grows with them.
        full_sample_bytes: what one full sample is taken to cost in that case.
        codec: numcodecs configuration of the patch codec; full and masked exemplars use the same.
        selection: order within a class.
        rerank: put the exemplars held into a new order by each phase's model, before its new classes make the room
            smaller.
        buffer: what buffers are called, ``<buffer>-<method>``; empty = after the run's folder and id
            (:mod:`learner.run.run_mark`).
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
        within(self, 0, MAX_BUDGET_BYTES, "budget_bytes", "full_samples_per_class", "full_sample_bytes")
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
    """One run.

    Attributes:
        seed: of all that is drawn but the split and the order of the classes, which have their own.
    """

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
