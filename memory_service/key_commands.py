"""``memory-service keys``: who may use a store, served or not."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memory_format import FormatError, StorageError
from memory_format.api.terms import ROLES, Role
from memory_service.offline import add_data_option
from memory_service.store.index import opening
from memory_service.store.keys import DAY, EVERYTHING, KEYS, PREFIX, Key, KeyFile


def add_key_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``keys make``, ``keys list`` and ``keys revoke``."""
    command = commands.add_parser(
        "keys",
        help="make, list and revoke keys",
        description="Who may use a store. Once it has a key, every request needs one. A service that runs takes all "
        "changes at once.",
    )
    actions = command.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a key, and print it: it is shown this once")
    make.add_argument("--role", choices=ROLES, default="read", help="what it is for; the later ones include the others")
    make.add_argument(
        "--buffers",
        nargs="+",
        default=[EVERYTHING],
        metavar="PATTERN",
        help="names it is for, as 'left-*'; default all",
    )
    make.add_argument("--learner", metavar="ID", help="the only learner_id whose records it may push or change")
    make.add_argument(
        "--trusted",
        action="store_true",
        help="take what it pushes without decoding it: who draws finds what is damaged",
    )
    make.add_argument("--days", type=float, help="good for so long; default until it is revoked")
    make.add_argument("--note", default="", help="whose it is, say; shown by list")
    show = actions.add_parser("list", help="list keys, without what is secret of them")
    show.add_argument("--json", action="store_true", help="as a JSON object a line")
    revoke = actions.add_parser("revoke", help="let a key in no more")
    revoke.add_argument("id", help="as list shows it")
    for action in (make, show, revoke):
        add_data_option(action)


def keys_command(action: str, data: Path, **options: Any) -> int:
    """Run one of them; returns the exit status. Raises ``StorageError``: it is no store, or none yet."""
    if (data / opening.MIGRATION).exists():
        # Its keys are still to come.
        raise StorageError(opening.UNFINISHED.format(data))
    keys, is_store = KeyFile(data), opening.is_store(data)
    if action == "make":
        made = _make(keys, **options)
        if not is_store:
            # They may come first, or have a directory of their own.
            print(f"There is no store in {data} yet: serve one from there, or with these keys.", file=sys.stderr)
        return made
    if not is_store and keys.current() is None:
        raise StorageError(f"there is no store in {data}, and no {KEYS}")
    return _list(keys, **options) if action == "list" else _revoke(keys, **options)


def _make(keys: KeyFile, role: Role, learner: str | None, days: float | None, **options: Any) -> int:
    now = time.time()
    if days is not None and not 0 < days < 1_000_000:
        raise FormatError(f"--days is a number above 0, got {days:g}", code="invalid_request")
    expires_at = None if days is None else now + days * DAY
    key, shown = keys.make(role, now, learner_id=learner, expires_at=expires_at, **options)
    # Alone on stdout, for `KEY=$(memory-service keys make ...)`.
    print(shown)
    print(f"{_described(key, now)}\nIt is shown this once. Clients read it from EXEMPLAR_MEMORY_KEY.", file=sys.stderr)
    return 0


def _list(keys: KeyFile, json: bool) -> int:
    now = time.time()
    known = keys.current()
    if known is None:
        print("There are no keys yet: nobody is asked for one.", file=sys.stderr)
    for key in (known or {}).values():
        print(_as_json(key) if json else _described(key, now))
    return 0


def _revoke(keys: KeyFile, id: str) -> int:
    if id.count("_") > 1:
        raise FormatError("a key is revoked by its id, em_ and 8 characters, not by itself", code="invalid_request")
    now = time.time()
    print(_described(keys.revoke(id.removeprefix(PREFIX), now), now))
    return 0


def _as_json(key: Key) -> str:
    known = asdict(key)
    del known["sha256"]
    return json.dumps({**known, "id": PREFIX + key.id})


def _described(key: Key, now: float) -> str:
    if key.revoked_at is not None:
        state = f"revoked {_day(key.revoked_at)}"
    elif key.expires_at is None:
        state = "good"
    else:
        state = f"{'good until' if key.is_good(now) else 'expired'} {_day(key.expires_at)}"
    whose = "" if key.learner_id is None else f"; learner {key.learner_id}"
    whose += "; trusted" if key.trusted else ""
    note = key.note and f"; {key.note}"
    return f"{PREFIX}{key.id}  {key.role}  {' '.join(key.buffers)}{whose}; made {_day(key.created_at)}; {state}{note}"


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
