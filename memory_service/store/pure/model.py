"""Values that the store takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from memory_format import FormatError
from memory_format.api.terms import (
    MAX_BUDGET_BYTES,
    MAX_DESCRIPTION,
    MAX_DISK_LIMIT_BYTES,
    MAX_RETAINED,
    NAME_PATTERN,
    EvictionPolicy,
)
from memory_format.text import check_text

GROWN_CLASSES = 1000
"""For so many classes a budget grows, where no other ceiling is given: class ids are the clients' to make up."""

SMALLEST_HEADROOM = 256 * 1024
"""Bytes of disk over the budget where no limit is given: half of the budget is too little for files and index
pages of small buffers."""


@dataclass(frozen=True)
class Options:
    """Limits of a store; ``memory_service.settings`` says what each is for."""

    max_batch_records: int = 10_000
    max_response_bytes: int = 256 * 1024 * 1024
    segment_bytes: int = 16 * 1024 * 1024
    open_segments: int = 256
    idempotency_seconds: float = 24 * 3600.0
    total_budget_bytes: int | None = None
    learner_bytes: int | None = None
    least_free_bytes: int = 64 * 1024 * 1024
    decode_payloads: bool = True
    run_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class Budget:
    """How many bytes the live records of a buffer may be charged: as bytes, or as full samples a class. Raises
    ``FormatError`` (``invalid_budget``)."""

    budget_bytes: int | None = None
    full_samples_per_class: int | None = None
    full_sample_bytes: int | None = None
    """Bytes of one full sample, as the experiment counts them."""
    num_classes: int | None = None
    """For how many classes; None: for those seen so far, so that the budget grows."""
    max_budget_bytes: int | None = None
    """Where it grows, to no more than that; None: than :data:`GROWN_CLASSES` classes' worth."""

    def __post_init__(self) -> None:
        in_samples = (self.full_samples_per_class, self.full_sample_bytes)
        if self.budget_bytes is not None:
            if any(value is not None for value in (*in_samples, self.num_classes, self.max_budget_bytes)):
                raise FormatError("a budget is given in bytes or in full samples, not both", code="invalid_budget")
        elif None in in_samples:
            raise FormatError(
                "a budget is budget_bytes, or full_samples_per_class with full_sample_bytes", code="invalid_budget"
            )
        for name in ("full_samples_per_class", "full_sample_bytes", "num_classes"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_BUDGET_BYTES:
                raise FormatError(f"{name} must lie in 1..{MAX_BUDGET_BYTES}, got {value}", code="invalid_budget")
        if self.max_budget_bytes is not None and not self.grows:
            raise FormatError(
                "max_budget_bytes bounds a budget that grows, without num_classes; this one does not",
                code="invalid_budget",
            )
        least = self.bytes_for(1)
        if self.max_budget_bytes is not None and not self._per_class <= self.max_budget_bytes <= MAX_BUDGET_BYTES:
            raise FormatError(
                f"max_budget_bytes must lie between one class's worth, {least}, and {MAX_BUDGET_BYTES}, got "
                f"{self.max_budget_bytes}",
                code="invalid_budget",
            )

    @property
    def _per_class(self) -> int:
        assert self.full_samples_per_class is not None
        assert self.full_sample_bytes is not None
        return self.full_samples_per_class * self.full_sample_bytes

    @property
    def most_bytes(self) -> int:
        """What it comes to at most."""
        if not self.grows:
            return self.bytes_for(1)
        return self.max_budget_bytes or min(GROWN_CLASSES * self._per_class, MAX_BUDGET_BYTES)

    @property
    def grows(self) -> bool:
        """Whether it depends on the classes seen."""
        return self.budget_bytes is None and self.num_classes is None

    def bytes_for(self, classes_seen: int) -> int:
        """The budget in bytes once that many classes have been seen; at least one class's worth. Raises
        ``FormatError``: ``invalid_budget`` where it is out of range."""
        if self.budget_bytes is not None:
            total = self.budget_bytes
        else:
            total = self._per_class * (max(classes_seen, 1) if self.num_classes is None else self.num_classes)
            if self.grows and total > self._per_class:
                total = min(total, self.most_bytes)
        if not 1 <= total <= MAX_BUDGET_BYTES:
            raise FormatError(
                f"budget_bytes must lie in 1..{MAX_BUDGET_BYTES} (1 PiB), got {total}",
                code="invalid_budget",
                limit=MAX_BUDGET_BYTES,
            )
        return total


LEARNER_MAKER: Final = "learner:"
"""Before the learner's id, in what :attr:`BufferConfig.made_by` says of a learner's key."""


@dataclass(frozen=True)
class BufferConfig:
    """What a buffer was made with, or set to since."""

    id: int
    name: str
    budget: Budget
    budget_bytes: int
    """What :attr:`budget` comes to now."""
    eviction: EvictionPolicy
    description: str
    created_at: float
    """Seconds since 1970, UTC."""
    given_disk_limit: int | None = None
    retain_snapshots: int | None = None
    """The newest so many snapshots are kept; None: all."""
    learner_floor: float | None = None
    """What of the budget each learner keeps, as far as it has so much: a share, over 0 and up to 1."""
    patch_px: int | None = None
    """Side of the patches of all its records; None: of the first that comes."""
    vocabulary: str | None = None
    """Fingerprint of the vocabulary of its token ids; None: nobody has said."""
    vocabulary_name: str = ""
    owner: str = ""
    """Id of the run that it belongs to; empty: it is shared."""
    made_by: str = ""
    """Whose key made it (:attr:`memory_service.store.keys.Key.maker`); empty: nobody was asked for one. Exports do not
    say it."""
    draw_key: str = ""
    """What its random choices are a function of, beside ids and versions. It never changes, and goes along to forks
    and imports, so that a reservoir stays a uniform sample of all that was ever offered. Buffers from before it was
    stored have their name of then."""

    @property
    def disk_limit_bytes(self) -> int:
        """Bytes that everything stored for the buffer may take on disk."""
        if self.given_disk_limit is not None:
            return self.given_disk_limit
        return max(self.budget_bytes * 3 // 2, self.budget_bytes + SMALLEST_HEADROOM)

    def budget_for(self, classes_seen: int) -> int:
        """The budget in bytes once that many classes have been seen.

        One that grows ends at a disk limit that was given: beyond, it could not be used. Raises ``FormatError``:
        ``invalid_budget``.
        """
        budget_bytes = self.budget.bytes_for(classes_seen)
        if self.budget.grows and self.given_disk_limit is not None:
            return min(budget_bytes, max(self.given_disk_limit, self.budget.bytes_for(1)))
        return budget_bytes

    @property
    def most_bytes(self) -> int:
        """What the budget may come to, as far as it is promised: a disk limit that was given ends it, too."""
        most = self.budget.most_bytes
        if self.budget.grows and self.given_disk_limit is not None:
            most = min(most, self.given_disk_limit)
        return max(most, self.budget_bytes)

    def settings(self) -> dict[str, Any]:
        """All but the id as plain values side by side: so the index, sealed segments and exports say it."""
        budget = vars(self.budget) | {"disk_limit_bytes": self.given_disk_limit}
        return budget | {name: getattr(self, name) for name in _SETTINGS}

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], id_: int = 0) -> BufferConfig:
        """The same again, of what :meth:`settings` has given; what else there is does not count. Raises
        ``FormatError`` (``invalid_budget``)."""
        budget = {field.name: settings[field.name] for field in fields(Budget)}
        if settings["full_samples_per_class"] is not None:
            # It is what the others come to.
            budget["budget_bytes"] = None
        others = {name: settings[name] for name in _SETTINGS}
        return cls(id=id_, budget=Budget(**budget), given_disk_limit=settings["disk_limit_bytes"], **others)


_SETTINGS: Final = (
    "name",
    "budget_bytes",
    "eviction",
    "description",
    "created_at",
    "retain_snapshots",
    "learner_floor",
    "draw_key",
    "patch_px",
    "vocabulary",
    "vocabulary_name",
    "owner",
    "made_by",
)


def check_settings(config: BufferConfig) -> BufferConfig:
    """The settings, if a buffer can have them. Raises ``FormatError``: ``invalid_budget`` or ``invalid_request``."""
    check_text("a description", config.description, max_length=MAX_DESCRIPTION)
    if config.retain_snapshots is not None and not 1 <= config.retain_snapshots <= MAX_RETAINED:
        raise FormatError(
            f"retain_snapshots lies in 1..{MAX_RETAINED}, or is absent to keep all", code="invalid_request"
        )
    if config.learner_floor is not None and not 0 < config.learner_floor <= 1:
        raise FormatError(
            f"learner_floor is a share of the budget, over 0 and up to 1, or absent; got {config.learner_floor}",
            code="invalid_request",
        )
    if not config.budget_bytes <= config.disk_limit_bytes <= MAX_DISK_LIMIT_BYTES:
        raise FormatError(
            f"disk_limit_bytes must lie between the budget of {config.budget_bytes} and {MAX_DISK_LIMIT_BYTES}, got "
            f"{config.disk_limit_bytes}",
            code="invalid_budget",
        )
    return config


def check_name(name: str) -> None:
    """Refuse what can be no buffer's or snapshot's name. Raises ``FormatError`` (``invalid_request``)."""
    if not NAME_PATTERN.fullmatch(name):
        raise FormatError(
            f"a name is 1..63 of a-z 0-9 . _ - and begins with a letter or digit, got {name!r}",
            code="invalid_request",
        )


@dataclass(frozen=True)
class PushAnswer:
    """A ``PushResponse`` as JSON, and whether it is the answer to an earlier push with the same key."""

    document: str
    replayed: bool = False
    kept: int = 0
    rejected: int = 0
    evicted: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A name for what a buffer held at one version."""

    name: str
    version: int
    next_exemplar_id: int
    num_records: int
    bytes_used: int
    created_at: float
    number: int
    """Ascends with each snapshot of the buffer."""
    erased: int = 0
    """Records that it showed and that were erased since: they are not counted above."""
