"""Settings of what brought nothing: off, and here so that rows of docs/decisions/0011 to 0015 can be run again."""

from __future__ import annotations

from dataclasses import dataclass

from learner.ranges import FINITE, within
from learner.training.ablations.fill_from import FillSource


@dataclass(frozen=True)
class AblationConfig:
    """What was tried and brought nothing (docs/decisions/0015). Off, but for a row of a table.

    Attributes:
        flip: share of all samples that are mirrored.
        fill_from: what the dropped places of masked exemplars are filled with: patches of a ``new`` picture, of its
            ``background`` only, or the ``mean`` colour of the exemplar itself.
        distill: weight of the loss that keeps old classes' logits where the previous phase's model had them
            (:mod:`learner.training.ablations.distill`); 0 = off.
        stored_logits: weight of the loss that keeps replayed exemplars' logits where they were when stored
            (:mod:`learner.training.ablations.stored_logits`); 0 = off.
        balance: how much of a class's share in a phase's steps the loss takes out
            (:mod:`learner.training.ablations.balance`); 1 = all.
        rerank: put the exemplars held into a new order by each phase's model, before its new classes make the room
            smaller.
        two_views: test with the sum of the scores of the whole sample and of its masked view.
    """

    flip: float = 0.0
    fill_from: FillSource = "new"
    distill: float = 0.0
    stored_logits: float = 0.0
    balance: float = 0.0
    rerank: bool = False
    two_views: bool = False

    def __post_init__(self) -> None:
        within(self, 0, 1, "flip")
        within(self, 0, FINITE, "distill", "stored_logits", "balance")
