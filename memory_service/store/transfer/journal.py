"""What a migration has done so far, in a directory of its own in the new store's: so that it goes on where it was cut.

What is about to be put is noted, durably, before it is, and again once it is there. So everything that a migration has
ever put is named here, and what is needed no more can be removed without looking for it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from memory_format import StorageError
from memory_service.store.segments import files

_WHAT: Final = "what.json"
_PUT: Final = "put"
_ABOUT: Final = "+"
_DONE: Final = "="


class Journal:
    """A migration's.

    Args:
        directory: its own; made, with its parents, by :meth:`begin`.
        what: which store goes where, in words that are compared.

    Raises:
        StorageError: there is one of another migration.
    """

    def __init__(self, directory: Path, what: dict[str, str]) -> None:
        self._directory = directory
        self._what = what
        self.about: set[str] = set()
        """Names of what may be there."""
        self.done: dict[str, int] = {}
        """Names of what is there, and its bytes."""
        self.resumed = (directory / _WHAT).exists()
        if self.resumed:
            self._read()

    @property
    def copy(self) -> Path:
        """Where the copy of the index goes."""
        return self._directory / "index.sqlite"

    def forget_copy(self) -> None:
        """With what SQLite keeps beside it, which would be taken for the next one's. Raises ``OSError``."""
        for path in self._directory.glob(f"{self.copy.name}*"):
            files.unlink(path)

    def begin(self) -> None:
        """Note durably what this is about. Raises ``OSError``."""
        if self.resumed:
            return
        files.make_directory(self._directory)
        files.sync_directory(self._directory.parent)
        with files.replacing(self._directory / _WHAT) as descriptor:
            files.write_at(descriptor, [json.dumps(self._what).encode()], 0)

    def about_to_put(self, names: Iterable[str]) -> None:
        """Note, durably, what may be there from now on. Raises ``OSError``."""
        new = sorted(set(names) - self.about)
        if new:
            self._append([f"{_ABOUT} {name} 0" for name in new], durable=True)
            self.about.update(new)

    def has_put(self, name: str, num_bytes: int) -> None:
        """Note what is there. Raises ``OSError``."""
        self._append([f"{_DONE} {name} {num_bytes}"])
        self.done[name] = num_bytes

    def forget(self, names: Iterable[str]) -> None:
        """Put these again. Raises ``OSError``."""
        for name in names:
            if self.done.pop(name, None) is not None:
                self._append([f"{_ABOUT} {name} 0"])

    def remove(self) -> None:
        """The store is there. What cannot be removed goes with its first start."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _append(self, lines: Iterable[str], *, durable: bool = False) -> None:
        descriptor = os.open(
            self._directory / _PUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, files.FILE_MODE
        )
        with os.fdopen(descriptor, "ab") as file:
            # With an end in front, too: what was cut short is a line of its own.
            file.write("".join(f"\n{line}\n" for line in lines).encode())
            file.flush()
            if durable:
                files.sync(descriptor)

    def _read(self) -> None:
        found = (self._directory / _PUT).read_text(errors="replace") if (self._directory / _PUT).exists() else ""
        for line in found.splitlines():
            kind, *rest = line.split(" ")
            if len(rest) == 2 and rest[1].isdigit():
                self.about.add(rest[0])
                if kind == _DONE:
                    self.done[rest[0]] = int(rest[1])
                elif kind == _ABOUT:
                    self.done.pop(rest[0], None)
        try:
            said = json.loads((self._directory / _WHAT).read_bytes())
        except ValueError as error:
            words = f"{self._directory} cannot be read ({error}): remove it, and what is beside it"
            raise StorageError(words) from error
        if said == self._what:
            return
        if self.about:
            raise StorageError(
                f"{self._directory} is of a migration from {said.get('from')} to {said.get('to')}, this is one from "
                f"{self._what['from']} to {self._what['to']}: end that one, or name another directory"
            )
        # It has not put anything.
        self.resumed = False
