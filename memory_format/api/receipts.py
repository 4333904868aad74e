"""What the service answers of what it has erased."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_format.api.answer import Answer


@dataclass(frozen=True)
class ErasedFrom(Answer):
    """What a buffer has lost to an erasure."""

    buffer: str
    exemplar_ids: tuple[int, ...]
    """Records that it or one of its snapshots held."""
    snapshots: dict[str, int]
    """Snapshot -> how many of them it showed."""


@dataclass(frozen=True)
class HeldElsewhere(Answer):
    """A record that was not erased."""

    buffer: str
    exemplar_id: int


@dataclass(frozen=True)
class ErasureReceipt(Answer):
    """What was erased: no file of the store has its bytes any more, but for the records named in ``elsewhere``."""

    exemplar_ids: tuple[int, ...]
    buffers: tuple[ErasedFrom, ...]
    """The buffer and those of its forks that held any of it."""
    files: tuple[str, ...]
    """Files that held it: removed, or in ``quarantine/`` overwritten."""
    elsewhere: tuple[HeldElsewhere, ...]
    """Other records with the same bytes, the first 1,000."""
    unreturned: int
    """Processes of the service's machine that read removed files and had not closed them when they were cut off."""
    erased_at: float
    """Seconds since 1970."""
    checksum: str
    """SHA-256 of all other members that are not null as JSON, keys sorted, without spaces; in hexadecimal."""
    unconfirmed: tuple[str, ...] | None = field(default=None, kw_only=True)
    """Replicas that have not said yet that their copies are gone, as they are away: they remove them before they answer
    anything again. None in receipts of earlier versions."""


@dataclass(frozen=True)
class KeptReceipt(Answer):
    """A receipt that was answered, or would have been."""

    receipt_id: str
    buffers: tuple[str, ...]
    """From which records were to be erased: the buffer that was asked for, and its forks."""
    receipt: ErasureReceipt
    unconfirmed: tuple[str, ...] = field(default=(), kw_only=True)
    """Of those that the receipt names, the replicas that have not said so by now."""


@dataclass(frozen=True)
class ReceiptList(Answer):
    """Receipts, newest first."""

    receipts: tuple[KeptReceipt, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""
    damaged: tuple[str, ...] = field(default=(), kw_only=True)
    """Ids of those on this page that cannot be read, of whichever buffer they are: for who may see all buffers."""
