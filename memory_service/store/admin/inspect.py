"""What a store on disk holds, in figures of one moment. Nothing is changed, and a service may serve it meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from memory_format import StorageError
from memory_format.api.answers import BufferStats
from memory_format.codecs import codec_by_number
from memory_format.header import layout_of
from memory_service.store.admin.on_disk import Progress, StoreOnDisk
from memory_service.store.admin.online import Newer
from memory_service.store.directory import Places, open_local
from memory_service.store.index.base import BufferEntry, BufferRows
from memory_service.store.loading import SealedSegments, load
from memory_service.store.pure.columns import Columns, Learners
from memory_service.store.pure.model import BufferConfig, Snapshot
from memory_service.store.pure.stats import stats
from memory_service.store.segments.layout import SegmentContents
from memory_service.store.segments.leftovers import QUARANTINE
from memory_service.store.segments.outside import name_of
from memory_service.store.transfer.outside import Outside

_MOST_TURNS = 100
_OF_A_PROCESS: Final = {"held_bytes", "orphans", "pushes", "samples"}
"""Members of the figures of a buffer that only a service knows."""


@dataclass(frozen=True)
class CodecFigures:
    """Live records of one codec and layout."""

    codec: str
    layout: str
    count: int
    bytes: int


@dataclass(frozen=True)
class BufferFigures:
    """A buffer."""

    config: BufferConfig
    stats: BufferStats
    codecs: list[CodecFigures]
    snapshots: list[Snapshot]
    """The oldest first."""
    first_written: float | None
    """When the file that was not written for the longest was written, seconds since 1970; None without files. An object
    is written when it is put."""
    last_written: float | None

    def document(self) -> dict[str, Any]:
        """As JSON has it; ``stats`` as the service answers them, but for what only a service knows."""
        figures = {name: value for name, value in asdict(self.stats).items() if name not in _OF_A_PROCESS}
        shown = [{name: value for name, value in vars(mark).items() if name != "number"} for mark in self.snapshots]
        return {
            "name": self.config.name,
            "settings": self.config.settings(),
            "stats": figures,
            "codecs": [asdict(codec) for codec in self.codecs],
            "snapshots": shown,
            "first_written": self.first_written,
            "last_written": self.last_written,
        }


@dataclass(frozen=True)
class StoreFigures:
    """A store."""

    served: bool
    """Whether a process holds it."""
    segments: int
    """Each once, also where forks share it."""
    open_segments: int
    file_bytes: int
    """Of segments."""
    index_bytes: int
    reports: int
    """Of runs."""
    quarantined: int
    """Files in quarantine/."""
    buffers: list[BufferFigures]

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**vars(self), "buffers": [buffer.document() for buffer in self.buffers]}


def inspect(data: Path, places: Places = open_local, *, progress: Progress | None = None) -> StoreFigures:
    """Look at a store. It may lie where nothing can be written.

    Headers are read and no bodies: see ``verify`` for whether these are sound.

    Args:
        data: its directory.
        places: where it has what does not lie there.

    Raises:
        StorageError: there is no store, its index cannot be used or is of another version, or a segment is damaged; or
            a served store changes faster than it can be looked at.
    """
    with (
        Outside(data, places) as outside,
        outside.held_if_free() as served,
        TemporaryDirectory(prefix="memory-service-") as directory,
    ):
        standing = outside.look()
        # Of a served one the file that says so is written a moment later.
        if not served:
            standing.expect_usable()
        newer = Newer(outside, Path(directory))
        read: dict[str, SegmentContents] = {}
        for _ in range(_MOST_TURNS):
            with closing(newer()) as store:
                try:
                    return _figures(store, served, outside.index.num_bytes(), read, progress)
                except StorageError as error:
                    if not served or newer.names(error.details.get("segment", "")):
                        raise
    raise StorageError("the store changes faster than it can be looked at; try it while less is pushed")


def _figures(
    store: StoreOnDisk, served: bool, index_bytes: int, read: dict[str, SegmentContents], progress: Progress | None
) -> StoreFigures:
    with store.index.reading() as reading:
        segments, entries, contents = reading.segments(), reading.buffers(), reading.contents()
    for number, state in enumerate(segments):
        if progress is not None:
            progress(number, len(segments), state.stem)
        if state.sealed:
            SealedSegments(store.source, read).contents(state)
    if progress is not None:
        progress(len(segments), len(segments), "")
    written, quarantine = store.source.listed(), store.data / QUARANTINE
    return StoreFigures(
        served=served,
        segments=len(segments),
        open_segments=sum(not state.sealed for state in segments),
        file_bytes=sum(state.file_bytes for state in segments),
        index_bytes=index_bytes,
        reports=len(store.reports()),
        quarantined=sum(path.is_file() for path in quarantine.rglob("*")) if quarantine.is_dir() else 0,
        buffers=[
            _of_buffer(store, entry, contents[entry.config.id], read, written)
            for entry in sorted(entries, key=lambda entry: entry.config.name)
        ],
    )


def _of_buffer(
    store: StoreOnDisk,
    entry: BufferEntry,
    rows: BufferRows,
    read: dict[str, SegmentContents],
    written: Mapping[str, float],
) -> BufferFigures:
    learners = Learners()
    state = load(entry, rows, SealedSegments(store.source, read), learners)
    # A service may have removed one meanwhile, and the index keeps open ones of objects.
    times = [written[name] for name in map(name_of, rows.segments) if name in written]
    return BufferFigures(
        config=entry.config,
        stats=stats(state, learners.ids, held_bytes=0, pushes=0, samples=0, orphans=0),
        codecs=_codecs(state.columns),
        snapshots=_by_age(rows.snapshots),
        first_written=min(times, default=None),
        last_written=max(times, default=None),
    )


def _by_age(snapshots: Mapping[str, Snapshot]) -> list[Snapshot]:
    return sorted(snapshots.values(), key=lambda mark: mark.number)


def _codecs(columns: Columns) -> list[CodecFigures]:
    """By codec and layout, most bytes first."""
    kinds = np.stack([columns["codec"], columns["flags"]], axis=1)
    values, which = np.unique(kinds, axis=0, return_inverse=True)
    counts = np.bincount(which.ravel(), minlength=len(values))
    sizes = np.bincount(which.ravel(), columns.charge, minlength=len(values))
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for (codec, flags), count, size in zip(values.tolist(), counts.tolist(), sizes.tolist(), strict=True):
        kind = codec_by_number(codec).codec_id, layout_of(flags)
        before = found.get(kind, (0, 0))
        found[kind] = before[0] + count, before[1] + int(size)
    figures = [CodecFigures(*kind, *sums) for kind, sums in found.items()]
    return sorted(figures, key=lambda one: (-one.bytes, one.codec, one.layout))
