"""Commands on a store: inspect, backup and verify, whether it is served or not; repair, migrate, export, import."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from memory_format import FormatError
from memory_format.api.forms import form_named
from memory_format.tables import as_imported
from memory_service.http.app import open_store
from memory_service.inspect_command import add_inspect_command, run_inspect
from memory_service.migrate_command import add_migrate_command, run_migrate
from memory_service.place_options import add_place_options, places_of, some_path
from memory_service.progress import bar
from memory_service.settings import Settings
from memory_service.store.admin.on_disk import Report
from memory_service.store.admin.online import Pace
from memory_service.store.admin.repair import repair
from memory_service.store.admin.verify import verify
from memory_service.store.index import opening
from memory_service.store.segments import files
from memory_service.store.transfer.backup import backup
from memory_service.store.transfer.imports import Import

EXIT_UNSOUND: Final = 1
"""Exit status where a check found something."""

SHOWN: Final = 20
"""Problems and ids that are listed before the rest is only counted."""


def add_offline_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``inspect``, ``backup``, ``verify``, ``repair``, ``migrate``, ``export`` and ``import``."""
    add_inspect_command(commands)
    command = commands.add_parser("backup", help="copy a store as of one moment, also while a service serves it")
    command.add_argument("data", type=some_path, metavar="DIR", help="directory of the store")
    command.add_argument(
        "target", type=some_path, metavar="TO", help="directory to make, of a store that has all in it"
    )
    command.add_argument(
        "--damaged", action="store_true", help="also where segments are missing or cut short: a copy to be repaired"
    )
    add_place_options(command)
    for name, words in (
        ("verify", "check every record, counter and file of a store, served or not, and change nothing"),
        ("repair", "put damaged files aside, carry over what is sound, make an index again where it is lost"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("data", type=some_path, metavar="DIR", help="directory of the store")
        command.add_argument("--json", action="store_true", help="the whole report as one JSON object")
        if name == "verify":
            add_place_options(command)
            command.add_argument(
                "--max-rate", type=float, metavar="MB", help="read at most so many megabytes a second; default no bound"
            )
    add_migrate_command(commands)
    command = commands.add_parser("export", help="write a buffer to one file, a Zarr store in a ZIP or a table")
    command.add_argument("buffer")
    command.add_argument("file", type=some_path, help="x.zarr.zip, x.parquet, x.arrow or x.arrows; must not exist")
    command.add_argument("--png", action="store_true", help="each record's picture, too, in a column of a table")
    command.add_argument("--snapshot", help="what the buffer held at this snapshot")
    add_data_option(command)
    add_place_options(command)
    command = commands.add_parser("import", help="make a buffer of an exported file")
    command.add_argument("buffer", help="name of the new buffer")
    command.add_argument("file", type=some_path)
    add_data_option(command)
    add_place_options(command)


def add_data_option(command: argparse.ArgumentParser) -> None:
    """``--data DIR``, by default the environment's."""
    default = os.environ.get("MEMORY_SERVICE_DATA")
    command.add_argument(
        "--data",
        type=some_path,
        required=default is None,
        default=default,
        metavar="DIR",
        help="directory of the store; default the environment's MEMORY_SERVICE_DATA",
    )


def _backup(data: Path, target: Path, damaged: bool, index: str | None, segments: str | None) -> int:
    places = places_of(data, index, segments)
    with bar("copying", "segments") as progress:
        number, num_bytes = backup(data, target, places, damaged=damaged, progress=progress)
    print(f"{target}: {number} segments, {num_bytes} bytes")
    return 0


def _verify(data: Path, json: bool, max_rate: float | None, index: str | None, segments: str | None) -> int:
    if max_rate is not None and not max_rate > 0:
        raise FormatError(f"--max-rate must be more than 0, got {max_rate}", code="invalid_request")
    # Behind who serves the store meanwhile, in reading too.
    os.nice(10)
    with bar("checking", "segments") as progress:
        pace = Pace(None if max_rate is None else max_rate * 1e6)
        report = verify(data, places_of(data, index, segments), progress=progress, pace=pace)
    _show(report, data, json)
    return 0 if report.sound else EXIT_UNSOUND


def _repair(data: Path, json: bool) -> int:
    with bar("checking", "segments") as progress:
        report = repair(data, progress=progress)
    _show(report, data, json, repaired=True)
    return 0


def _export(
    buffer: str, file: Path, snapshot: str | None, png: bool, data: Path, index: str | None, segments: str | None
) -> int:
    if file.exists():
        raise FormatError(f"{file} exists already", code="invalid_request")
    settings = _settings(data, index, segments)
    # Opening would make one.
    if settings.index is None and not opening.is_store(data):
        raise FormatError(f"there is no store in {data}", code="invalid_request")
    with open_store(settings) as store:
        with (
            files.replacing(file, mode=0o666) as descriptor,
            closing(store.buffer(buffer).export(snapshot, form_named(file), png=png)) as pieces,
            bar("exporting", "B") as progress,
        ):
            end = 0
            for piece in pieces:
                end = files.write_at(descriptor, [piece], end)
                progress(end, pieces.num_bytes, buffer)
        num = store.buffer(buffer).stats().num_records if snapshot is None else None
    what = f"buffer {buffer}, {num} records" if num is not None else f"snapshot {snapshot} of buffer {buffer}"
    print(f"{what}: {file.stat().st_size} bytes in {file}")
    return 0


def _import(buffer: str, file: Path, data: Path, index: str | None, segments: str | None) -> int:
    settings = _settings(data, index, segments)
    with bar("importing", "B") as progress, as_imported(file, progress) as (path, _):
        if not opening.is_store(data):
            # For what is no export none is made.
            Import(path).close()
        with open_store(settings) as store:
            made = store.import_buffer(buffer, path, progress=progress).stats()
    print(f"buffer {buffer}: {made.num_records} records, {made.bytes_used} of {made.budget_bytes} bytes")
    return 0


def _settings(data: Path, index: str | None, segments: str | None) -> Settings:
    places = places_of(data, index, segments)
    return Settings(
        data=data, index=None if places.index is None else SecretStr(places.index), segments=places.segments
    )


OFFLINE: Final[Mapping[str, Callable[..., int]]] = {
    "inspect": run_inspect,
    "backup": _backup,
    "verify": _verify,
    "repair": _repair,
    "migrate": run_migrate,
    "export": _export,
    "import": _import,
}


def _show(report: Report, data: Path, as_json: bool, *, repaired: bool = False) -> None:
    if as_json:
        print(json.dumps({**asdict(report), "sound": report.sound}))
        return
    for line in (*_found(report), *_done(report)):
        print(line)
    live = ", ".join(f"{name} {count}" for name, count in sorted(report.buffers.items())) or "none"
    number = len(report.problems)
    found = f"{number} problem{'s' * (number != 1)}{', repaired' * repaired}" if number else "sound"
    print(
        f"{data}: {report.segments} segments, {report.records} records, {report.bytes_checked} bytes read; "
        f"live records by buffer: {live}; {found}"
    )


def _found(report: Report) -> Iterator[str]:
    for problem in report.problems[:SHOWN]:
        yield f"{problem.kind}: {problem.where}: {problem.words}"
    if len(report.problems) > SHOWN:
        yield f"... and {len(report.problems) - SHOWN} more; --json lists all"
    for what, lost in (("records", report.lost), ("records of snapshots", report.lost_in_snapshots)):
        for name, ids in lost.items():
            more = "" if len(ids) <= SHOWN else f" and {len(ids) - SHOWN} more"
            yield f"buffer {name}: {len(ids)} {what} lost: {', '.join(map(str, ids[:SHOWN]))}{more}"
    if report.unknown_records:
        yield f"{report.unknown_records} records lost whose ids cannot be read"
    if report.foreign:
        yield f"left alone, none of the store's: {', '.join(sorted(report.foreign)[:SHOWN])}"


def _done(report: Report) -> Iterator[str]:
    yield from (f"put aside: {name}" for name in report.quarantined)
    for name, count in report.recovered.items():
        made = "; the index did not know it" if name in report.made else ""
        yield f"buffer {name}: {count} records recovered from sealed segments{made}"
    for name, ids in report.evicted.items():
        yield f"buffer {name}: {len(ids)} records given up, as its budget has no room for them"
    for name, limit in report.raised.items():
        yield f"buffer {name}: its disk limit is {limit} bytes now, which is what it takes"
    if report.nameless:
        yield f"left in quarantine, as they do not say whose they are: {', '.join(report.nameless[:SHOWN])}"
    yield from (f"not known: {words}" for words in report.unknown)
    if report.gone:
        yield f"{report.gone} segments were removed by the service before their turn came"
