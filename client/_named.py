"""What a buffer is asked, and what becomes of it over time: snapshots, differences, forks, exports."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from client import _listing, _transfer
from client._address import buffer_path
from client._params import present, query_string
from client._session import Connected
from memory_format import NotFoundError
from memory_format.api.answers import ClassesNamed, ClassList, Diff, SnapshotInfo, SnapshotList, Vocabulary
from memory_format.api.forms import ExportForm
from memory_format.api.terms import MAX_NAMED

T = TypeVar("T")


@dataclass(frozen=True)
class Named:
    """A buffer by its name, of which :class:`client.buffer.Buffer` is the rest."""

    client: Connected
    """The :class:`MemoryClient`."""
    name: str

    def name_classes(self, names: Sequence[str], class_ids: Sequence[int] | None = None) -> list[int]:
        """The buffer's ids of classes, by their names. Names that are new to it get ids, all in one step.

        So learners with numbers of their own agree: each pushes under the ids that it is given here. A name keeps its
        id for ever. Many are named in several requests, one after another.

        Args:
            names: each once, 1..200 characters.
            class_ids: the ids that they are to have, for a buffer whose classes have numbers already; None = those that
                they have, and for new names the smallest that are free.

        Raises:
            ConflictError: ``class_name_taken``: a name has another id, or an id another name.
            FormatError: a name or id is none, or comes twice.
        """
        found: list[int] = []
        for first in range(0, len(names), MAX_NAMED):
            part = slice(first, first + MAX_NAMED)
            body: dict[str, Any] = {"names": list(names[part])}
            if class_ids is not None:
                body["class_ids"] = [int(class_id) for class_id in class_ids[part]]
            found += self._ask(ClassesNamed, "POST", "classes", json=body).class_ids
        return found

    def class_names(self) -> dict[int, str]:
        """Class id -> name, of all classes that have one, whether anything is held of them or not."""
        path = buffer_path(self.name, "classes")
        listed = _listing.listed(self.client.session, path, ClassList, lambda page: page.classes)
        return {named.class_id: named.name for named in listed}

    def put_vocabulary(self, words: Sequence[str]) -> bool:
        """Tell the buffer the words of its vocabulary, so that its pages show words in the place of token ids.

        They are kept once and go along to forks and exports. Nothing happens where they are there already.

        Args:
            words: that of token id 0, of token id 1, and so on: 256 characters each, 4 MiB of JSON in all unless the
                service takes more.

        Returns:
            whether they are new to it.

        Raises:
            ConflictError: ``vocabulary_mismatch``: its texts are of another vocabulary, or of one that nobody named.
            BudgetError: ``disk_limit_exceeded``.
        """
        path = buffer_path(self.name, "vocabulary")
        return self.client.session.request("PUT", path, json={"words": list(words)}).status_code == 201

    def vocabulary(self) -> list[str] | None:
        """The words of the buffer's vocabulary, that of token id 0 first; None where nobody has told them."""
        try:
            return list(self._ask(Vocabulary, "GET", "vocabulary").words)
        except NotFoundError as error:
            if error.code != "unknown_vocabulary":
                raise
            return None

    def take_snapshot(self, name: str) -> SnapshotInfo:
        """Name what the buffer holds now; nothing happens where the name stands for just that already.

        A snapshot costs no copy. What it holds and the buffer no longer does counts towards the disk limit.

        Raises:
            ConflictError: ``snapshot_exists``: the name stands for an earlier version.
            BudgetError: ``disk_limit_exceeded``.
        """
        return self._ask(SnapshotInfo, "PUT", "snapshots", name)

    def snapshots(self) -> list[SnapshotInfo]:
        """All snapshots, oldest first."""
        path = buffer_path(self.name, "snapshots")
        return list(_listing.listed(self.client.session, path, SnapshotList, lambda page: page.snapshots))

    def snapshot(self, name: str) -> SnapshotInfo:
        """One snapshot.

        Raises:
            NotFoundError: there is none of that name.
        """
        return self._ask(SnapshotInfo, "GET", "snapshots", name)

    def delete_snapshot(self, name: str) -> None:
        """Remove a snapshot, and from the disk what only it holds.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.client.session.delete(buffer_path(self.name, "snapshots", name))

    def diff(self, before: str, after: str | None = None) -> Diff:
        """What came and went between a snapshot and another one, or now.

        Raises:
            NotFoundError: there is no such snapshot.
        """
        return self._ask(Diff, "GET", "diff", params=query_string({"from": before, "to": after}))

    def fork(
        self,
        name: str,
        *,
        snapshot: str | None = None,
        disk_limit_bytes: int | None = None,
        description: str | None = None,
    ) -> Self:
        """A new buffer that starts with what this one holds, and goes its own way from there.

        Nothing is copied. Budget, eviction, ids and version are this buffer's; its snapshots are not taken
        over. It is not tried again after a broken connection, as nobody knows then whether it was made.

        Args:
            disk_limit_bytes, description: None = this buffer's.

        Raises:
            ConflictError: there is a buffer of that name.
            BudgetError: ``disk_limit_exceeded``.
        """
        wanted = {"name": name, "snapshot": snapshot, "disk_limit_bytes": disk_limit_bytes, "description": description}
        path = buffer_path(self.name, "forks")
        self.client.session.request("POST", path, safe=False, json=present(wanted))
        return type(self)(self.client, name)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        snapshot: str | None = None,
        form: ExportForm | None = None,
        png: bool = False,
        progress: bool = False,
    ) -> Path:
        """Write the buffer to a file; :meth:`MemoryClient.import_buffer` reads it.

        It is received piece by piece, in a file beside ``path`` that takes its place, and that of what was
        there before, when it is whole.

        Args:
            form: ``zarr``, a ZIP with a Zarr store, or a table with a row a record: ``arrow-stream``, ``arrow-file``
                or ``parquet``. None = as the file is called: ``.parquet``, ``.arrow`` (a file), ``.arrows`` (a stream),
                all others Zarr.
            png: each record's picture, too, in the table's column ``png``.
            progress: show a bar; needs ``tqdm``.

        Returns:
            ``path``.

        Raises:
            ProtocolError: what came is not a whole file.
            FormatError: ``invalid_query``: no such form, or ``png`` of a Zarr store, which has no such column.
            OSError: it cannot be written.
        """
        session = self.client.session
        return _transfer.receive(session, self.name, Path(path), snapshot, form, png=png, progress=progress)

    def _ask(self, kind: type[T], method: str, *rest: str, **arguments: Any) -> T:
        return self.client.session.value(kind, method, buffer_path(self.name, *rest), **arguments)
