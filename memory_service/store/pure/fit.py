"""Whether records go together: a batch can be made of patches of one size alone, and a text be read by the vocabulary
that its token ids are of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from memory_format import ConflictError
from memory_service.store.pure.columns import Columns, Rows
from memory_service.store.pure.model import BufferConfig


def fitted(
    config: BufferConfig, held: Iterable[Rows | Columns], incoming: Rows, vocabulary: str | None
) -> BufferConfig:
    """The settings of a buffer once it takes some records in: what was open before is fixed by them.

    Args:
        held: what it holds, and what its snapshots do.
        vocabulary: fingerprint that the records' pusher states.

    Raises:
        ConflictError: ``patch_size_mismatch``, ``vocabulary_mismatch``.
    """
    parts = list(held)
    found = np.unique(incoming["patch_px"]).tolist()
    if found:
        patch_px = size_of(config, parts) or found[0]
        for other in found:
            if other != patch_px:
                raise _patch_sizes(config.name, patch_px, other)
        if config.patch_px is None:
            config = replace(config, patch_px=patch_px)
    if vocabulary is None:
        if config.vocabulary is not None and incoming["text_length"].any():
            raise _vocabularies(config, "an unnamed one, as the push does not say which")
    elif config.vocabulary is None:
        if has_texts(parts):
            raise ConflictError(
                f"buffer {config.name!r} holds texts of a vocabulary that nobody named, the push is of {vocabulary}: "
                "where it is the same, PATCH the buffer's vocabulary to say so; else push to another buffer",
                code="vocabulary_mismatch",
                expected=None,
                found=vocabulary,
            )
        config = replace(config, vocabulary=vocabulary)
    elif vocabulary != config.vocabulary:
        raise _vocabularies(config, vocabulary)
    return config


def check_refitting(before: BufferConfig, wanted: BufferConfig, held: Iterable[Rows | Columns]) -> None:
    """Refuse settings that say of what a buffer holds what is not so.

    Args:
        held: as in :func:`fitted`.

    Raises:
        ConflictError: as :func:`fitted`.
    """
    parts = list(held)
    if wanted.patch_px is not None:
        for part in parts:
            differing = np.flatnonzero(part["patch_px"] != wanted.patch_px)
            if len(differing):
                raise _patch_sizes(before.name, int(part["patch_px"][differing[0]]), wanted.patch_px)
    if before.vocabulary is not None and wanted.vocabulary != before.vocabulary and has_texts(parts):
        raise _vocabularies(before, wanted.vocabulary or "none")


def size_of(config: BufferConfig, held: Iterable[Rows | Columns]) -> int | None:
    """The side of a buffer's patches; None where that is open. Buffers from before it was fixed have that of their
    first record."""
    if config.patch_px is not None:
        return config.patch_px
    return next((int(part["patch_px"][0]) for part in held if len(part["patch_px"])), None)


def has_texts(held: Iterable[Rows | Columns]) -> bool:
    """Whether any record has a text, of which no word need be kept."""
    return any(part["text_length"].any() for part in held)


def _patch_sizes(name: str, expected: int, found: int) -> ConflictError:
    return ConflictError(
        f"buffer {name!r} holds patches of {expected} px, and these are of {found} px: one batch cannot have both, "
        "push them to another buffer",
        code="patch_size_mismatch",
        expected=expected,
        found=found,
    )


def _vocabularies(config: BufferConfig, found: str) -> ConflictError:
    return ConflictError(
        f"the token ids of buffer {config.name!r} are of vocabulary {config.vocabulary}, and these are of {found}: the "
        "same number is another word there; push them to another buffer",
        code="vocabulary_mismatch",
        expected=config.vocabulary,
        found=found,
    )
