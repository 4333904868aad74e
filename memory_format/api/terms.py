"""Words, names and limits that both sides know."""

from __future__ import annotations

import re
from typing import Final, Literal, get_args

EvictionPolicy = Literal["class_balanced", "lowest_score", "fifo", "reservoir", "reject"]
"""Which records leave a buffer whose budget is full."""
EVICTION_POLICIES: Final[tuple[EvictionPolicy, ...]] = get_args(EvictionPolicy)

Strategy = Literal["uniform", "class_balanced", "score_weighted"]
"""How records are drawn into a batch."""
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)

Want = Literal["records", "ids"]
"""What a draw is answered with: whole records, or which ones they are."""

Sort = Literal["exemplar_id", "-exemplar_id", "score", "-score", "rank", "-rank"]
"""The order of a listing; ``-`` for descending."""
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Names of buffers and snapshots."""

MEDIA_TYPE: Final = "application/vnd.apache.arrow.stream"
"""Of a batch of records."""
JSON_MEDIA_TYPE: Final = "application/json"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
EXPORT_MEDIA_TYPE: Final = "application/zip"
BACKUP_MEDIA_TYPE: Final = "application/x-tar"
PICTURE_MEDIA_TYPE: Final = "image/png"

VERSION_HEADER: Final = "Exemplar-Memory-Version"
"""Of the buffer that an answer was read from."""
CURSOR_HEADER: Final = "Exemplar-Memory-Next-Cursor"
"""Leads to the next page of records."""
KEY_HEADER: Final = "Idempotency-Key"
"""Names a push: with the same key it happens once."""
REPLAYED_HEADER: Final = "Idempotency-Replayed"
"""``true`` where an answer is that of an earlier push with the same key."""
VOCABULARY_HEADER: Final = "Exemplar-Memory-Vocabulary"
"""Fingerprint of the vocabulary that the token ids of a push are of."""
REQUEST_ID_HEADER: Final = "X-Request-ID"
"""Names a request in the service's log; an answer repeats it."""
STORE_HEADER: Final = "Exemplar-Memory-Store"
"""In answers: the id of the store, which all its replicas have."""

Role = Literal["read", "write", "admin"]
"""What a key is for; each may do what those before it may."""
ROLES: Final[tuple[Role, ...]] = get_args(Role)
KEY_ID_PATTERN: Final = re.compile(r"em_[0-9a-f]{8}")
BUFFERS_PATTERN: Final = re.compile(r"[a-z0-9._*?\[\]!-]{1,63}")
"""A shell's pattern of names of buffers."""
MAX_NOTE: Final = 200
"""Printable characters of a key's note."""
MAX_PATTERNS: Final = 100
"""That a key is made for in one request."""
API_KEY_PATTERN: Final = re.compile(r"em_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
"""A key: its id, which is no secret, and 256 random bits in base64, which are."""

RUN_CURSOR_PATTERN: Final = re.compile(r"([0-9]{1,18})-([a-z0-9][a-z0-9._-]{0,62})")
"""Leads to the next page of runs: when one was stored, in microseconds, and its id."""
RECEIPT_PATTERN: Final = re.compile(r"[0-9]{17}-[0-9a-f]{8}")
"""Ids of receipts: when something was erased, in microseconds, and 8 random digits."""
OWNER_PATTERN: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")
"""Ids of runs that a buffer may belong to; the empty one is nobody's."""
MAX_KEY_LENGTH: Final = 128
"""Printable ASCII characters of an idempotency key."""
MAX_PAGE: Final = 1000
"""Items on a page of a list."""
MAX_SAMPLE: Final = 4096
"""Records of a batch that is answered: of the part that is asked for."""
MAX_DRAW: Final = 65_536
"""Records of a batch that is drawn, all parts together."""
FINGERPRINT_PATTERN: Final = re.compile(r"[0-9a-f]{32}")
"""Of a vocabulary: :func:`memory_format.vocabulary.vocabulary_fingerprint`."""
STREAM_PATTERN: Final = re.compile(r"[ -~]{0,64}")
"""Labels of independent draws: printable ASCII."""
MAX_FILTER_VALUES: Final = 1000
"""Values of one condition in an address."""
MAX_DRAW_CLASSES: Final = 65_536
"""Classes that one draw is from, which its body names."""
MAX_UPDATE: Final = 100_000
"""Records that one request gives new scores or ranks."""
MAX_REPLACED: Final = 4096
"""Records of which one request replaces arrays."""
MAX_ARRAYS: Final = 64
"""Arrays that it replaces of each."""
MAX_ARRAY_NAME: Final = 64
"""Characters of an array's name there."""
MAX_AXES: Final = 16
"""Of one of them."""
REVISION_PATTERN: Final = re.compile(r'"([0-9]{1,19})"')
"""How often a record's arrays were replaced, as an entity tag."""
MAX_DIFF_IDS: Final = 10_000
"""Ids on each side of a difference."""
MAX_SCALE: Final = 8
"""Pixels of a picture for one of the record's, along each side."""
MAX_BUDGET_BYTES: Final = 2**50
MAX_DISK_LIMIT_BYTES: Final = 2 * MAX_BUDGET_BYTES
MAX_RETAINED: Final = 2**31 - 1
"""Snapshots that a buffer is told to keep."""
MAX_CLASS_NAME: Final = 200
"""Characters of a class's name, and of a vocabulary's."""
MAX_WORDS: Final = 2**20
"""Of a vocabulary."""
MAX_WORD: Final = 256
"""Characters of one of them."""
MAX_NAMED: Final = 10_000
"""Classes that one request names."""
MAX_DESCRIPTION: Final = 10_000
"""Characters of a buffer's description."""


def part_of(batch_size: int, part: int, parts: int) -> slice:
    """Which rows of a batch are one of its parts. Together, in their order, the parts are the batch; no two differ by
    more than one row."""
    return slice(batch_size * part // parts, batch_size * (part + 1) // parts)
