"""What the service answers. The service fills these values in, the client reads them.

Members that a newer service adds are passed over. Members with a default are absent from older services' answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from memory_format.api.answer import Answer, Grid, Integers, Mask, one_of
from memory_format.api.contents import PartInfo
from memory_format.api.receipts import ErasureReceipt
from memory_format.api.terms import EVICTION_POLICIES
from memory_format.canvas import Layout


@dataclass(frozen=True)
class Health:
    """The service is up."""

    status: Literal["ok"] = "ok"


@dataclass(frozen=True)
class LocalSocket(Answer):
    """Where a client of the same machine and user reads the files by itself (``memory_format.lending``)."""

    path: str
    """Of a Unix socket."""
    instance: str
    """Names the run of the service that listens there."""


@dataclass(frozen=True)
class ServiceInfo(Answer):
    """What answers at the address, and what it has on offer."""

    service: str
    version: str
    wire_version: str
    """Of batches of records."""
    segment_format: int = field(default=0, kw_only=True)
    """Of its segment files."""
    codecs: tuple[str, ...] = field(default=(), kw_only=True)
    schema_version: str = field(default="", kw_only=True)
    """Of its index."""
    eviction: tuple[str, ...] = field(default=(), kw_only=True)
    strategies: tuple[str, ...] = field(default=(), kw_only=True)
    local: LocalSocket | None = field(default=None, kw_only=True)
    """Told to clients of this machine, where there is one."""


@dataclass(frozen=True)
class BufferInfo(Answer):
    """A buffer's settings, and how full it is."""

    name: str
    budget_bytes: int
    """What the budget comes to now."""
    full_samples_per_class: int | None
    """None, as the next two, where the budget was given in bytes."""
    full_sample_bytes: int | None
    num_classes: int | None
    """None also where the budget grows with the classes seen."""
    max_budget_bytes: int | None = field(default=None, kw_only=True)
    """Where the budget grows, to no more than that; None: than 1,000 classes' worth."""
    disk_limit_bytes: int
    """Given, or the default for the budget."""
    eviction: Annotated[str, one_of(EVICTION_POLICIES)]
    retain_snapshots: int | None
    """None: all are kept."""
    learner_floor: float | None = field(default=None, kw_only=True)
    """What of the budget each learner keeps, as far as it has so much: a share."""
    description: str
    created_at: float
    """Seconds since 1970."""
    version: int
    """Counts the changes of the contents."""
    bytes_used: int
    num_records: int
    patch_px: int | None = field(default=None, kw_only=True)
    """Side of the patches of its records; None: the first push says."""
    vocabulary: str | None = field(default=None, kw_only=True)
    """Fingerprint of the vocabulary that its token ids are of; None: nobody has said."""
    vocabulary_name: str = field(default="", kw_only=True)
    owner: str = field(default="", kw_only=True)
    """Run that it belongs to; empty: it is shared."""


@dataclass(frozen=True)
class ChangedBuffer(BufferInfo):
    """A buffer after its settings were changed."""

    evicted: tuple[int, ...] = field(default=(), kw_only=True)
    """Ids of the records that a smaller budget evicted."""


@dataclass(frozen=True)
class BufferList(Answer):
    """Buffers by name."""

    buffers: tuple[BufferInfo, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""


@dataclass(frozen=True)
class ClassStats(Answer):
    """One class's share of a buffer."""

    class_id: int
    count: int
    bytes: int
    name: str | None = field(default=None, kw_only=True)
    """None: nobody has named it."""


@dataclass(frozen=True)
class NamedClass(Answer):
    """A class and its name."""

    class_id: int
    name: str


@dataclass(frozen=True)
class Vocabulary(Answer):
    """The words of a buffer's vocabulary, that of token id 0 first."""

    fingerprint: str
    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class ClassList(Answer):
    """Named classes by id, whether anything is held of them or not."""

    classes: tuple[NamedClass, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""


@dataclass(frozen=True)
class ClassesNamed(Answer):
    """The ids of classes by name."""

    class_ids: tuple[int, ...]
    """In the order of the names."""
    added: tuple[str, ...]
    """Names that are new to the buffer."""


@dataclass(frozen=True)
class BufferStats(Answer):
    """Figures of a buffer, all of one moment."""

    budget_bytes: int
    bytes_used: int
    bytes_free: int
    utilization: float
    """``bytes_used`` of ``budget_bytes``, 0..1."""
    num_records: int
    num_classes: int
    """Classes that it holds records of."""
    num_classes_seen: int
    """Classes of all records that were ever offered to it."""
    bytes_per_exemplar: float | None
    """None while the buffer is empty."""
    classes: tuple[ClassStats, ...]
    phases: dict[int, int]
    """Phase -> records."""
    learners: dict[str, int]
    """Learner id -> records."""
    disk_limit_bytes: int
    disk_bytes: int
    """Bytes on the service's disk: files, and rows of the index."""
    dead_bytes: int
    """Of the files, what no record needs that the buffer or a snapshot holds."""
    pinned_bytes: int
    """Of the files, records that only snapshots and exports under way hold."""
    held_bytes: int = field(default=0, kw_only=True)
    """Of ``disk_bytes``, files that are removed once those who read them are done."""
    index_bytes: int
    """Of ``disk_bytes``, rows of the index."""
    segments: int
    """Files."""
    open_segments: int
    """Files that still grow."""
    orphans: int
    """Files of the whole store that are to be deleted, and could not be yet."""
    snapshots: int
    version: int
    pushes: int
    samples: int


@dataclass(frozen=True)
class PushResponse(Answer):
    """What became of one batch of records."""

    exemplar_ids: tuple[int | None, ...]
    """One for each record pushed, in order; None where the record was not kept."""
    kept: int
    """Records that were kept."""
    rejected: int
    """Records that were not."""
    evicted: tuple[int, ...]
    """Ids of earlier records that made room."""
    bytes_used: int
    budget_bytes: int
    version: int


@dataclass(frozen=True)
class UpdateResponse(Answer):
    """What became of new scores, ranks or arrays."""

    updated: int
    """Records that have the values now."""
    missing: tuple[int, ...]
    """Ids that the buffer does not hold (any more)."""
    version: int
    revisions: dict[int, int] = field(default_factory=dict, kw_only=True)
    """Exemplar id -> how often its arrays were replaced by now; of the others, never."""
    evicted: tuple[int, ...] = field(default=(), kw_only=True)
    """Ids of the records that made room for larger arrays."""


@dataclass(frozen=True)
class DeleteResponse(Answer):
    """What a deletion removed."""

    deleted: tuple[int, ...]
    bytes_used: int
    version: int
    receipt: ErasureReceipt | None = field(default=None, kw_only=True)
    """Where they were erased, and there was anything to erase."""


@dataclass(frozen=True)
class SnapshotInfo(Answer):
    """A name for what a buffer held at one version."""

    name: str
    version: int
    num_records: int
    bytes_used: int
    created_at: float
    """Seconds since 1970."""
    erased: int = field(default=0, kw_only=True)
    """Records that were erased from it since, and do not count above."""


@dataclass(frozen=True)
class SnapshotList(Answer):
    """Snapshots, oldest first."""

    snapshots: tuple[SnapshotInfo, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""


@dataclass(frozen=True)
class Side(Answer):
    """Records that only one of two states holds."""

    count: int
    bytes: int
    classes: tuple[ClassStats, ...]
    exemplar_ids: tuple[int, ...]
    """The first 10,000 of them."""


@dataclass(frozen=True)
class Diff(Answer):
    """What came and went between two states of a buffer."""

    from_version: int
    to_version: int
    added: Side
    evicted: Side
    """Deleted ones among them."""
    revised: Side = field(default=Side(0, 0, (), ()), kw_only=True)
    """Records that both hold, with other arrays."""


@dataclass(frozen=True)
class ExemplarInfo(Answer):
    """A record without its pixels and tokens."""

    exemplar_id: int
    class_id: int
    phase: int
    learner_id: str
    score: float
    rank: int
    grid: Grid
    """Rows and columns."""
    patch_px: int
    codec: str
    layout: Annotated[str, one_of(get_args(Layout))]
    has_extras: bool
    text_length: int
    """Tokens of the original text."""
    num_tokens: int
    """Tokens that are kept."""
    num_patches: int
    """Patches that are kept."""
    keep_ratio: float
    """``num_patches`` of the cells of all grids."""
    charge: int
    """Bytes of the budget that it takes."""
    crc32: int
    """Of its body."""
    revision: int = field(default=0, kw_only=True)
    """How often arrays of it were replaced since it was pushed."""
    num_pictures: int = field(default=1, kw_only=True)
    """The grid and the layout are the first one's; patches are counted in all of them."""


@dataclass(frozen=True)
class ExemplarPage(Answer):
    """A part of a listing."""

    exemplars: tuple[ExemplarInfo, ...]
    next_cursor: str | None = field(default=None, kw_only=True)
    """Leads to the next page; None at the end."""
    version: int


@dataclass(frozen=True)
class DrawnIds(Answer):
    """A batch by the ids of its B records, for who has the records already: what a fingerprint names never changes."""

    version: int
    """Of the buffer, or of the snapshot, that it was drawn from."""
    created_at: float
    """Of the buffer: one of the same name that was made later has other records under these ids."""
    exemplar_ids: tuple[int, ...]
    """In drawing order."""
    fingerprints: tuple[int, ...]
    """Of each as it is stored: :func:`memory_format.header.fingerprints`."""
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    text_from: tuple[int, ...]
    """Whose text each carries, its own or another's; empty where all have their own. If either is of several parts, it
    keeps its own all the same."""
    text_fingerprints: tuple[int, ...]
    """Of those."""


@dataclass(frozen=True, eq=False)
class ExemplarDetail(ExemplarInfo):
    """One record with its masks, tokens and the user's JSON."""

    keep_mask: Mask
    """``(h, w)``: rows of 0 and 1, 1 = kept."""
    token_ids: Integers
    """``(T,)``."""
    token_positions: Integers
    """``(T,)``: places in the original text."""
    user_json: dict[str, Any]
    fields: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """The user's, by which records can be filtered and grouped."""
    parts: tuple[PartInfo, ...] = field(default=(), kw_only=True)
    """In the order in which a model reads them."""
