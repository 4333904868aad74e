"""Everything a run can be told, as frozen values. They are stored with the run.

The defaults are the demo's; data of one's own has others for sizes and budget (:mod:`learner.run.overrides`). Every
field is described under ``Attributes``: ``learner config`` and docs/reference/learner-settings.md are made of these
words.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict

from learner.data.settings import DataConfig
from learner.memory.settings import MemoryConfig
from learner.model.attention_masks import MaskConfig
from learner.model.settings import BackboneConfig
from learner.ranges import LARGEST, within
from learner.training.ablations.settings import AblationConfig
from learner.training.settings import TrainConfig, WarmupConfig


@dataclass(frozen=True)
class LearnerConfig:
    """One run.

    Attributes:
        seed: of all that is drawn but the split and the order of the classes, which have their own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")
    """For settings as people give them (:mod:`learner.run.overrides`), in all tables."""

    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    mask: MaskConfig = field(default_factory=lambda: MaskConfig(text=False))
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    ablations: AblationConfig = field(default_factory=AblationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        within(self, 0, LARGEST, "seed")
        if self.train.decode_on_device and self.memory.codec["id"] != "em_jpeg":
            raise ValueError('train.decode_on_device needs JPEG exemplars: memory.codec = {id = "em_jpeg"}')

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
