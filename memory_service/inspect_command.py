"""``memory-service inspect``: what a store on disk holds, as tables for people or as JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from memory_format import NotFoundError
from memory_service.place_options import add_place_options, places_of, some_path
from memory_service.progress import bar
from memory_service.store.admin.inspect import BufferFigures, StoreFigures, inspect

_SHOWN: Final = 20
"""Rows of a table before the rest is only counted."""
_AGES: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

Row = Sequence[str]


def add_inspect_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``inspect``."""
    command = commands.add_parser(
        "inspect", help="say what a store holds, served or not, and change nothing", description=__doc__
    )
    command.add_argument("data", type=some_path, metavar="DIR", help="directory of the store")
    command.add_argument("buffer", nargs="?", help="one buffer: its classes, phases, learners, codecs and snapshots")
    command.add_argument("--json", action="store_true", help="all of it, of every buffer, as one JSON object")
    add_place_options(command)


def run_inspect(data: Path, buffer: str | None, json: bool, index: str | None, segments: str | None) -> int:
    """Print it; returns the exit status. Raises as :func:`~memory_service.store.admin.inspect.inspect`."""
    with bar("reading", "segments") as progress:
        found = inspect(data, places_of(data, index, segments), progress=progress)
    chosen = [one for one in found.buffers if buffer in (None, one.config.name)]
    if buffer is not None and not chosen:
        raise NotFoundError(f"there is no buffer {buffer!r} in {data}", code="unknown_buffer")
    if json:
        print(_document(found, chosen))
        return 0
    for line in _store(found, data, chosen) if buffer is None else _buffer(chosen[0], time.time()):
        print(line)
    return 0


def _document(found: StoreFigures, chosen: Sequence[BufferFigures]) -> str:
    return json.dumps({**found.document(), "buffers": [one.document() for one in chosen]})


def _store(found: StoreFigures, data: Path, buffers: Sequence[BufferFigures]) -> Iterator[str]:
    said = [
        _count(len(buffers), "buffer"),
        f"{_count(found.segments, 'segment')} ({found.open_segments} open) of {_bytes(found.file_bytes)}",
        f"index {_bytes(found.index_bytes)}",
        *([f"{_count(found.reports, 'report')} of runs"] if found.reports else []),
        *([f"{_count(found.quarantined, 'file')} in quarantine/"] if found.quarantined else []),
        "served" if found.served else "not served",
    ]
    yield f"{data}: {', '.join(said)}"
    if not buffers:
        return
    yield ""
    now = time.time()
    head = "buffer,records,classes,live,of budget,pinned,dead,disk,of limit,segments,snapshots,codecs,made,written"
    yield from _table(head.split(","), [_summary(one, now) for one in buffers])


def _summary(one: BufferFigures, now: float) -> Row:
    stats = one.stats
    return (
        one.config.name,
        f"{stats.num_records:,}",
        f"{stats.num_classes:,}",
        _bytes(stats.bytes_used),
        f"{stats.utilization:.0%}",
        _bytes(stats.pinned_bytes),
        _bytes(stats.dead_bytes),
        _bytes(stats.disk_bytes),
        f"{stats.disk_bytes / stats.disk_limit_bytes:.0%}",
        f"{stats.segments:,}",
        f"{stats.snapshots:,}",
        " ".join(dict.fromkeys(codec.codec for codec in one.codecs)) or "-",
        _age(one.config.created_at, now),
        _age(one.last_written, now),
    )


def _buffer(one: BufferFigures, now: float) -> Iterator[str]:
    stats, config = one.stats, one.config
    yield f"{config.name}: {config.eviction}, version {stats.version}" + (
        f", {config.description}" if config.description else ""
    )
    yield ""
    yield from _table(
        ("live", "pinned", "dead", "index", "disk", "budget", "disk limit", "segments", "open", "made", "written"),
        [
            (
                *map(_bytes, (stats.bytes_used, stats.pinned_bytes, stats.dead_bytes, stats.index_bytes)),
                *map(_bytes, (stats.disk_bytes, stats.budget_bytes, stats.disk_limit_bytes)),
                *map(str, (stats.segments, stats.open_segments)),
                _age(config.created_at, now),
                f"{_age(one.first_written, now)} .. {_age(one.last_written, now)}",
            )
        ],
    )
    parts: tuple[tuple[Row, list[Row]], ...] = (
        (
            ("class", "records", "bytes"),
            [(str(share.class_id), f"{share.count:,}", _bytes(share.bytes)) for share in stats.classes],
        ),
        (("phase", "records"), [(str(phase), f"{count:,}") for phase, count in stats.phases.items()]),
        (("learner", "records"), [(name, f"{count:,}") for name, count in stats.learners.items()]),
        (
            ("codec", "layout", "records", "bytes"),
            [(codec.codec, codec.layout, f"{codec.count:,}", _bytes(codec.bytes)) for codec in one.codecs],
        ),
        (
            ("snapshot", "version", "records", "bytes", "made"),
            [
                (
                    mark.name,
                    str(mark.version),
                    f"{mark.num_records:,}",
                    _bytes(mark.bytes_used),
                    _age(mark.created_at, now),
                )
                for mark in one.snapshots
            ],
        ),
    )
    for head, rows in parts:
        if rows:
            yield ""
            yield from _table(head, rows)


def _table(head: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Columns as wide as what is in them: the first to the left, figures to the right."""
    shown = [head, *rows[:_SHOWN]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join((first, *others)).rstrip()
    if len(rows) > _SHOWN:
        yield f"... and {len(rows) - _SHOWN:,} more; --json has all"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _bytes(number: int) -> str:
    for size, unit in _SIZES:
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def _age(moment: float | None, now: float) -> str:
    """How long ago a moment was."""
    if moment is None:
        return "-"
    passed = max(now - moment, 0.0)
    for seconds, unit in _AGES:
        if passed >= seconds:
            return f"{passed / seconds:.0f} {unit}"
    return "now"
