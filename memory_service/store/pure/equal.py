"""Whether a buffer that exists is the one that is asked for."""

from __future__ import annotations

from memory_format import ConflictError
from memory_service.store.pure.model import Budget, BufferConfig


def expect_equal(existing: BufferConfig, asked: BufferConfig) -> None:
    """Raises ``ConflictError`` (``buffer_exists``): the settings differ."""
    names: tuple[str, ...] = (
        "budget",
        "given_disk_limit",
        "eviction",
        "retain_snapshots",
        "learner_floor",
        "description",
        "vocabulary_name",
        "owner",
    )
    # What the first push fixes where nobody has said.
    names += tuple(name for name in ("patch_px", "vocabulary") if getattr(asked, name) is not None)
    differing = {name: getattr(existing, name) for name in names if getattr(existing, name) != getattr(asked, name)}
    if differing:
        said = ", ".join(f"{_SETTING.get(name, name)} is {_shown(value)}" for name, value in differing.items())
        raise ConflictError(
            f"buffer {existing.name!r} exists with other settings: {said}; PATCH changes them",
            code="buffer_exists",
            existing={_SETTING.get(name, name): _shown(value) for name, value in differing.items()},
        )


_SETTING = {"given_disk_limit": "disk_limit_bytes", "budget": "budget_bytes"}


def _shown(value: object) -> object:
    if not isinstance(value, Budget):
        return value
    if value.budget_bytes is not None:
        return value.budget_bytes
    return {name: given for name, given in vars(value).items() if given is not None}
