"""The gallery of a buffer's exemplars, one exemplar, and thumbnails."""

from __future__ import annotations

import io
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from PIL import Image
from pydantic import Field, model_validator

from memory_format import HEADER_BYTES, FormatError, Record
from memory_format.api.answers import ExemplarDetail, ExemplarInfo, SnapshotInfo
from memory_format.api.fields import ClassName
from memory_format.api.requests import Digits, ExemplarQuery
from memory_format.api.terms import MAX_FILTER_VALUES, MAX_SCALE
from memory_format.in_place import check_shown_size
from memory_service.http.access import needs
from memory_service.http.admission import Admission
from memory_service.http.convert import exemplar_detail, query_of, snapshot_info
from memory_service.http.pages import words
from memory_service.http.pages.charts import Part
from memory_service.http.pages.files import is_known, tag_of, tagged
from memory_service.http.pages.routing import Pages
from memory_service.http.routes.common import BufferDep, Router
from memory_service.http.routes.exemplars import ExemplarId, SnapshotName
from memory_service.store.buffer import Buffer
from memory_service.store.glimpses import Glimpse
from memory_service.store.pure.words import Words

router = Pages()
pictures = Router()

MOST_CARDS: Final = 60
"""So that a page of photographs stays under 300 kB with its thumbnails (benchmarks/decisions/gallery.py)."""
WORDS_ON_CARD: Final = 16
WORDS_SHOWN: Final = 2000
SNAPSHOTS_SHOWN: Final = 50
MOST_CELLS: Final = 4096
"""Of a grid that is drawn."""
JSON_SHOWN: Final = 20_000
"""Characters of the user's JSON."""

THUMBNAIL_SIDE: Final = 112
_WEBP: Final = {"quality": 50, "method": 2}
_RECIPE: Final = ("thumbnail", THUMBNAIL_SIDE, *_WEBP.values())
_PICTURE_SIDE: Final = 400
WEBP_MEDIA_TYPE: Final = "image/webp"


@dataclass(frozen=True)
class Word:
    """A kept token, and how many were dropped before it."""

    text: str
    gap: int


@dataclass(frozen=True)
class Text:
    """What is kept of a text."""

    words: tuple[Word, ...]
    gap: int
    """Tokens dropped after the last kept one."""
    more: int
    """Kept tokens that are not among ``words``."""


def text_of(ids: Sequence[int], positions: Sequence[int], length: int, most: int, words: Words | None = None) -> Text:
    """The first ``most`` kept tokens of a text of so many, with the gaps between them; by their ids where the words are
    not known."""
    ends = [0, *(position + 1 for position in positions)]
    said = [str(token) if words is None else words.of(token) or str(token) for token in ids[:most]]
    kept = tuple(Word(token, position - end) for token, position, end in zip(said, positions, ends, strict=False))
    more = max(0, len(ids) - most)
    return Text(kept, 0 if more else length - ends[-1], more)


class GalleryQuery(ExemplarQuery):
    """As the API's, with fewer to a page; fields of a form that are left empty do not count."""

    limit: Annotated[int, Digits] = Field(MOST_CARDS, ge=1, le=MOST_CARDS)
    class_name: list[ClassName] = Field([], max_length=MAX_FILTER_VALUES)
    """Of further classes, by what they are called."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, given: dict[str, Any]) -> dict[str, Any]:
        filled = {
            name: [part for part in value if part != ""] if isinstance(value, list) else value
            for name, value in given.items()
        }
        return {name: value for name, value in filled.items() if value not in ("", [])}

    def address(self, **changed: Any) -> str:
        """A query string that says the same, but for what is changed."""
        return words.query({**self.model_dump(exclude_defaults=True), **changed})


@dataclass(frozen=True)
class Card:
    """An exemplar in the gallery."""

    info: ExemplarInfo
    class_name: str
    """Empty where the class has none."""
    text: Text
    address: str
    thumbnail: str


@dataclass(frozen=True)
class Gallery:
    """A page of exemplars."""

    name: str
    version: int
    query: GalleryQuery
    cards: tuple[Card, ...]
    knows_words: bool
    """Whether texts are words, and not token ids."""
    snapshots: tuple[str, ...]
    """Those to choose from, newest first."""
    next_cursor: str | None


@router.page("/buffers/{name}/gallery", "gallery")
def gallery(request: Request, buffer: BufferDep, query: Annotated[GalleryQuery, Query()]) -> Gallery:
    wanted = query.model_copy(update={"class_id": [*query.class_id, *_called(query.class_name, buffer.state.names)]})
    found, next_cursor, version = buffer.browse(query_of(wanted), snapshot=query.snapshot)
    names = [snapshot.name for snapshot in islice(reversed(buffer.snapshots()), SNAPSHOTS_SHOWN)]
    if query.snapshot is not None and query.snapshot not in names:
        names.append(query.snapshot)
    cards = tuple(_card(buffer, query.snapshot, glimpse) for glimpse in found)
    return Gallery(buffer.name, version, query, cards, buffer.state.words is not None, tuple(names), next_cursor)


def _called(wanted: Sequence[str], names: Mapping[int, str]) -> list[int]:
    """The ids of classes by name. Raises ``FormatError`` (``invalid_query``): there is no such class."""
    ids = {name: class_id for class_id, name in names.items()} if wanted else {}
    for name in wanted:
        if name not in ids:
            raise FormatError(f"no class of this buffer is called {name!r}", code="invalid_query")
    return [ids[name] for name in wanted]


def _card(buffer: Buffer, snapshot: str | None, glimpse: Glimpse) -> Card:
    info, at = glimpse.info, words.query({"snapshot": snapshot})
    address = f"/buffers/{buffer.name}/exemplars/{info.exemplar_id}"
    text = text_of(glimpse.token_ids, glimpse.token_positions, info.text_length, WORDS_ON_CARD, buffer.state.words)
    return Card(
        info, buffer.state.names.get(info.class_id, ""), text, f"{address}{at}", f"{address}/thumbnail.webp{at}"
    )


@dataclass(frozen=True)
class Turn:
    """What somebody says."""

    role: str
    """Empty where nobody is said to."""
    text: Text


@dataclass(frozen=True)
class Shown:
    """A picture."""

    address: str
    grid: tuple[int, int]
    num_patches: int


@dataclass(frozen=True, eq=False)
class ExemplarPage:
    """One exemplar."""

    name: str
    snapshot: str | None
    detail: ExemplarDetail
    class_name: str
    """Empty where the class has none."""
    knows_words: bool
    """Whether texts are words, and not token ids."""
    texts: tuple[Turn, ...]
    parts: tuple[Part, ...]
    """What its bytes are: their sum is its charge."""
    pictures: tuple[Shown, ...]
    grid: str | None
    """The kept patches as the path of an SVG, a unit each; None where there are too many."""
    user_json: str
    """For people; cut where it is long."""
    died: int | None
    """The version at which the buffer ceased to hold it."""
    revision: int
    """How often its arrays were replaced in all."""
    num_snapshots: int
    """That show it."""
    snapshots: tuple[SnapshotInfo, ...]
    """The newest of them, newest first."""
    revisions: tuple[int, ...]
    """How often its arrays were replaced by each of those."""


@router.page("/buffers/{name}/exemplars/{exemplar_id}", "exemplar")
def exemplar(
    request: Request, buffer: BufferDep, exemplar_id: ExemplarId, snapshot: SnapshotName = None
) -> ExemplarPage:
    record = buffer.get(exemplar_id, snapshot=snapshot)
    detail, known = exemplar_detail(record), buffer.state.words
    life = buffer.state.life_of(exemplar_id)
    newest = life.shown_in[: -SNAPSHOTS_SHOWN - 1 : -1]
    (h, w), side = record.grid, max(record.grid) * record.patch_px
    scale = min(max(1, _PICTURE_SIDE // side), MAX_SCALE)
    wanted = {"dropped": "transparent", "scale": scale, "snapshot": snapshot}
    address = f"/v1/buffers/{buffer.name}/exemplars/{exemplar_id}/image.png"
    return ExemplarPage(
        name=buffer.name,
        snapshot=snapshot,
        detail=detail,
        class_name=buffer.state.names.get(detail.class_id, ""),
        knows_words=known is not None,
        texts=tuple(_turns(detail, known)),
        parts=tuple(Part(kind, num_bytes) for kind, num_bytes in _bytes_of(record).items()),
        pictures=tuple(
            Shown(f"{address}{words.query({**wanted, 'picture': place or None})}", part.grid, part.num_patches)
            for place, part in enumerate(part for part in detail.parts if part.grid is not None)
            if part.grid is not None
        ),
        grid=_grid(record.keep_mask.tolist()) if h * w <= MOST_CELLS else None,
        user_json=_shown(record.user_json()),
        died=life.died,
        revision=life.revision,
        num_snapshots=len(life.shown_in),
        snapshots=tuple(snapshot_info(mark) for mark, _ in newest),
        revisions=tuple(revision for _, revision in newest),
    )


def _turns(detail: ExemplarDetail, known: Words | None) -> Iterator[Turn]:
    ids, positions = detail.token_ids.tolist(), detail.token_positions.tolist()
    start, left = 0, WORDS_SHOWN
    for part in detail.parts:
        if part.kind == "text":
            a, b = (bisect_left(positions, place) for place in (start, start + part.text_length))
            text = text_of(ids[a:b], [place - start for place in positions[a:b]], part.text_length, left, known)
            yield Turn(part.role, text)
            start, left = start + part.text_length, left - len(text.words)


def _bytes_of(record: Record) -> dict[str, int]:
    known = {
        "header": HEADER_BYTES,
        "patch mask": len(record.keep_mask_bytes),
        "token mask": len(record.token_mask_bytes),
        "token ids": len(record.token_ids_bytes),
        "pixels": len(record.payload),
    }
    return {**known, "extras": record.charge - sum(known.values())}


def _grid(keep_mask: Iterable[Iterable[bool]]) -> str:
    """A rectangle for each run of kept cells in a row."""
    drawn = []
    for y, row in enumerate(keep_mask):
        for kept, run in groupby(enumerate(row), key=lambda cell: cell[1]):
            cells = list(run)
            if kept:
                drawn.append(f"M{cells[0][0]} {y}h{len(cells)}v1h-{len(cells)}z")
    return "".join(drawn)


def _shown(user_json: Any) -> str:
    text = json.dumps(user_json, indent=2, ensure_ascii=False) if user_json else ""
    return text if len(text) <= JSON_SHOWN else f"{text[:JSON_SHOWN]}\n…"


def thumbnail_of(record: Record) -> bytes:
    """The record's grid as WebP, dropped patches transparent, no side over :data:`THUMBNAIL_SIDE`. Raises as
    :meth:`Record.image`."""
    h, w = record.grid
    check_shown_size(h * record.patch_px, w * record.patch_px, "invalid_query")
    image = Image.fromarray(record.image("transparent"))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    out = io.BytesIO()
    image.save(out, "WEBP", **_WEBP)
    return out.getvalue()


@pictures.get(
    "/buffers/{name}/exemplars/{exemplar_id}/thumbnail.webp",
    include_in_schema=False,
    response_model=None,
    openapi_extra=needs("read"),
)
async def thumbnail(
    request: Request, buffer: BufferDep, exemplar_id: ExemplarId, snapshot: SnapshotName = None
) -> Response:
    """A small picture. It never changes, and nobody keeps it longer than the exemplar is there."""
    admission: Admission = request.app.state.admission
    fingerprint = await admission.listing.run(partial(buffer.fingerprint, exemplar_id, snapshot=snapshot))
    tag = tag_of([buffer.config.created_at, exemplar_id, fingerprint, *_RECIPE])
    content = b""
    if request.method != "HEAD" and not is_known(request, tag):
        admission.pictures.expect_place()
        content = await admission.pictures.run(partial(_make_thumbnail, buffer, exemplar_id, snapshot))
    return tagged(request, tag, content, WEBP_MEDIA_TYPE)


def _make_thumbnail(buffer: Buffer, exemplar_id: int, snapshot: str | None) -> bytes:
    return thumbnail_of(buffer.get(exemplar_id, snapshot=snapshot))
