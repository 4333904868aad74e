"""Erasing: the bytes of records are gone from every file of a store before this answers.

What is to go is noted first, so that a start after a crash goes on with it. Then the records leave their buffer, its
snapshots and its forks, what they lay in is rewritten without them, and nothing is answered before nobody reads the
old files any more. Bytes that nobody holds go from all buffers. Other records with the same bytes stay: the receipt
names them.

Where other replicas have the store open, their copies go as well: each is told, looks at what has become of its
buffers, and confirms. The receipt names those that are away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Final

import numpy as np

from memory_format import BusyError, ExemplarMemoryError, ForbiddenError, NotFoundError
from memory_format.api.answers import DeleteResponse
from memory_format.api.receipts import ErasedFrom, ErasureReceipt, HeldElsewhere
from memory_service.store.buffer import Buffer
from memory_service.store.index.base import ERASING, Index
from memory_service.store.pure.erasing import NO_TARGETS, Targets
from memory_service.store.pure.selection import EVERYTHING, Filter
from memory_service.store.reads import no_exemplar
from memory_service.store.receipts import Receipts
from memory_service.store.segments.base import Erased, Segments
from memory_service.store.segments.files import OPEN, SEALED
from memory_service.store.wiping import Wiped, Wiping, of_identities

logger = logging.getLogger(__name__)

WAIT_SECONDS: Final = 10.0
"""For those who read what is erased, for a backup under way, and for replicas."""
_LOOK_SECONDS: Final = 0.02
_MOST_NAMED: Final = 1000


class Erasures:
    """All erasures of a store, one after another.

    Args:
        buffers: gives those that there are.
        archiving: held while a backup's copy is in the store's directory.
        receipts: where they are kept.
    """

    def __init__(
        self,
        index: Index,
        segments: Segments,
        buffers: Callable[[], Sequence[Buffer]],
        archiving: threading.Lock,
        receipts: Receipts,
    ) -> None:
        self._index = index
        self._segments = segments
        self._buffers = buffers
        self._archiving = archiving
        self.receipts = receipts
        """Of what was erased."""
        self.drop_copies: Callable[[], object] = lambda: None
        """Called once no row names a segment any more with what is erased in it: there are no copies here when it
        returns. In one process there never are."""
        self._forking = threading.Lock()

    @contextmanager
    def forking(self) -> Iterator[None]:
        """Around the making of a fork: none is made of what is being erased."""
        with self._forking, self._index.changing(ERASING):
            yield

    def erase(
        self,
        buffer: Buffer,
        exemplar_ids: Sequence[int] | None,
        where: Filter = EVERYTHING,
        *,
        only_learner: str | None = None,
        sees: Callable[[str], bool] = lambda _: True,
    ) -> DeleteResponse:
        """Erase records of a buffer, by id or by what matches, and whatever is still to be erased from it.

        Args:
            only_learner: whose all of them must be; None = anybody's.
            sees: whether whoever asks may reach a buffer.

        Raises:
            ForbiddenError: one is another learner's than ``only_learner``, or the buffer has a fork out of reach.
                Nothing is erased then.
            NotFoundError: ``unknown_exemplar``: no file of the buffer or of a fork has a record of one of these ids.
                Nothing is erased then.
            BudgetError, BusyError, StorageError: they are not read any more, and not all of their bytes are gone yet.
                Asked again, or at the next start, this goes on.
        """
        with self._alone():
            with self._index.reading() as reading:
                pending = reading.erasures().get(buffer.config.id, NO_TARGETS)
                forks = reading.forks_of(buffer.config.id)
            if not all(sees(other.name) for other in self._buffers() if other.config.id in forks):
                raise ForbiddenError("the buffer has a fork that the key is not for, and erasing reaches forks")
            targets, found = self._targets(buffer, forks, exemplar_ids, where, only_learner)
            known = {*found, *pending["exemplar_id"].tolist()}
            if missing := [exemplar_id for exemplar_id in exemplar_ids or () if exemplar_id not in known]:
                if min(missing) < buffer.state.next_id:
                    self._clear([buffer.config.id, *forks])
                raise no_exemplar(buffer.name, missing[0])
            receipt = None
            if known:
                with self._index.writing() as transaction:
                    transaction.insert_erasures(targets)
                receipt = self._finish(sees)
            else:
                self._clear([buffer.config.id, *forks])
            named = set() if receipt is None else set(pending["exemplar_id"].tolist()) & set(receipt.exemplar_ids)
            deleted = tuple(sorted(found | named))
            return DeleteResponse(deleted, buffer.state.columns.bytes_used, buffer.state.version, receipt=receipt)

    def _targets(
        self,
        buffer: Buffer,
        forks: Mapping[int, int | None],
        exemplar_ids: Sequence[int] | None,
        where: Filter,
        only_learner: str | None,
    ) -> tuple[dict[int, Targets], set[int]]:
        """What is to be erased from a buffer and from each of its forks, by id; and the ids of these exemplars.

        A fork may have what the buffer has lost. What it has of a lower id than the buffer was to give next when it was
        forked is the same. Of forks of earlier versions nobody knows that id: there it is what is as it was pushed.
        """
        matching = where if exemplar_ids is None else None
        with buffer.wiping() as wiping:
            of_it = wiping.targets(exemplar_ids or (), matching, only_learner)
        chosen, found, identities = {buffer.config.id: of_it}, set(of_it.exemplar_ids), set(of_it.identities)
        others = [other for other in self._buffers() if other.config.id in forks]
        for other, wiping in _each(sorted(others, key=lambda other: forks[other.config.id] is None)):
            below = forks[other.config.id]
            if below is None:
                of_it = wiping.targets_of_exemplars(identities)
            else:
                of_it = wiping.targets(found.union(exemplar_ids or ()), matching, only_learner, below=below)
            chosen[other.config.id] = of_it
            found |= of_it.exemplar_ids
            identities |= of_it.identities
        exemplars = of_identities(identities)
        noted = {}
        for id_, of_it in chosen.items():
            shared = exemplars["exemplar_id"] < (forks.get(id_) or np.inf)
            noted[id_] = np.union1d(of_it.targets, exemplars[shared])
        return noted, found

    def resume(self, pending: Mapping[int, Targets]) -> None:
        """Go on with what a crash has interrupted; what still cannot be done is logged, and stays to be done.

        Args:
            pending: as :meth:`Reading.erasures` gives it.
        """
        if not pending:
            return
        try:
            with self._alone():
                with self._index.reading() as reading:
                    if not reading.erasures():
                        # Another process has done it by now.
                        return
                receipt = self._finish()
            logger.warning("erased %d records, as was asked for before the last stop", len(receipt.exemplar_ids))
        except ExemplarMemoryError as error:
            logger.error("records that were to be erased are still in the store's files: %s", error.message)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Around an erasure: afterwards only where something is still to be erased, exemplars are held back."""
        with self.forking():
            if not self._archiving.acquire(timeout=WAIT_SECONDS):
                raise BusyError("a backup under way holds what would be erased; ask again when it is done")
            try:
                yield
            finally:
                self._archiving.release()
                with self._index.reading() as reading:
                    pending = reading.erasures()
                for buffer in self._buffers():
                    if buffer.config.id not in pending:
                        buffer.contents.leaving = frozenset()

    def _finish(self, sees: Callable[[str], bool] = lambda _: True) -> ErasureReceipt:
        """Erase all that is noted; of buffers that ``sees`` says no to, the receipt says nothing."""
        with self._index.reading() as reading:
            pending = reading.erasures()
        buffers = {buffer.config.id: buffer for buffer in self._buffers()}
        everywhere: Targets = np.unique(np.concatenate(list(pending.values())))
        names = {tuple(target): target[0] for target in everywhere.tolist()}
        # While the bytes can still be read: they are searched for.
        overwritten = self._segments.overwrite_aside(everywhere, lambda: self._bodies(buffers, pending))
        wiped = {buffer.name: Wiped() for buffer in buffers.values()}
        for buffer, wiping in _each(buffers[id_] for id_ in pending if id_ in buffers):
            id_ = buffer.config.id
            found, ids = wiping.held_back(pending[id_])
            names.update(zip(map(tuple, found.tolist()), ids, strict=True))
            if not np.isin(found, pending[id_]).all():
                # Arrays were replaced through another replica since it was noted: no more from here on.
                pending[id_] = np.union1d(pending[id_], found)
                with self._index.writing() as transaction:
                    transaction.insert_erasures({id_: pending[id_]})
            wiped[buffer.name] = wiping.take_out(pending[id_])
        everywhere = np.unique(np.concatenate(list(pending.values())))
        for buffer, wiping in _each(buffers.values()):
            wiping.rewrite(everywhere, wiped[buffer.name])
        number, unconfirmed = self._drop_rest(everywhere, pending, buffers)
        rewritten = {state.stem: state for of_it in wiped.values() for state in of_it.rewritten}
        with self._index.reading() as reading:
            gone = rewritten.keys() - reading.known_stems(rewritten)
        files = [f"segments/{stem}{SEALED if rewritten[stem].sealed else OPEN}" for stem in gone]
        shown = [buffer for buffer in buffers.values() if sees(buffer.name)]
        receipt = self._receipt(everywhere, names.values(), wiped, sorted([*files, *overwritten]), shown, unconfirmed)
        with self._index.writing() as transaction:
            # Kept before it is forgotten what was to be erased: who has not got the answer finds it there.
            self.receipts.keep(transaction, [buffers[id_].name for id_ in pending if id_ in buffers], receipt, number)
            transaction.delete_erasures(pending)
            self._index.confirm(transaction, number)
        return receipt

    def _clear(self, buffer_ids: Collection[int]) -> None:
        """Of records that no row has any more there may be something where segments are objects: in objects that can be
        read for a while, in pages of the index, and in copies of replicas that have not heard of it."""
        if not self._segments.keeps_open:
            buffers = {buffer.config.id: buffer for buffer in self._buffers()}
            number, _ = self._drop_rest(NO_TARGETS, buffer_ids, buffers)
            with self._index.writing(counted=False) as transaction:
                self._index.confirm(transaction, number)

    def _drop_rest(
        self, targets: Targets, buffer_ids: Collection[int], buffers: Mapping[int, Buffer]
    ) -> tuple[int, Sequence[str]]:
        """No segment has records any more that were erased from some buffers: neither has anything else. Returns the
        number by which replicas confirm that, and places of those that do not."""
        with self._index.reading() as reading:
            related = {*buffer_ids, *reading.origins_of(buffer_ids)}
        erased = Erased(
            targets,
            {buffers[id_].name for id_ in buffer_ids if id_ in buffers},
            {(buffer.name, buffer.config.created_at) for id_, buffer in buffers.items() if id_ not in related},
        )
        self._segments.expect_gone(erased, WAIT_SECONDS)
        self._index.scrub()
        number = self._index.count_erasure()
        return number, self._unconfirmed(number)

    def _unconfirmed(self, number: int) -> Sequence[str]:
        """Places of replicas that have not said that they have no copies: a while is waited for those that are
        connected."""
        self.drop_copies()
        until = time.monotonic() + WAIT_SECONDS
        while any(replica.is_there for replica in self._index.behind(number)) and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        return [replica.place for replica in self._index.behind(number)]

    def _bodies(self, buffers: dict[int, Buffer], pending: dict[int, Targets]) -> Iterator[memoryview]:
        for buffer, wiping in _each(buffers[id_] for id_ in pending if id_ in buffers):
            yield from wiping.bodies(pending[buffer.config.id])

    def _receipt(
        self,
        targets: Targets,
        exemplar_ids: Iterable[int],
        wiped: dict[str, Wiped],
        files: Sequence[str],
        shown: Sequence[Buffer],
        unconfirmed: Sequence[str],
    ) -> ErasureReceipt:
        elsewhere = []
        for buffer, wiping in _each(shown):
            elsewhere += [HeldElsewhere(buffer.name, id_) for id_ in wiping.others(targets)]
        lost = [
            ErasedFrom(name, tuple(of_it.deleted), of_it.snapshots)
            for name, of_it in sorted(wiped.items())
            if of_it.deleted and name in {buffer.name for buffer in shown}
        ]
        receipt = ErasureReceipt(
            exemplar_ids=tuple(sorted(set(exemplar_ids))),
            buffers=tuple(lost),
            files=tuple(files),
            elsewhere=tuple(elsewhere[:_MOST_NAMED]),
            unreturned=sum(of_it.unreturned for of_it in wiped.values()),
            erased_at=time.time(),
            checksum="",
            unconfirmed=tuple(unconfirmed),
        )
        document = {name: value for name, value in asdict(receipt).items() if name != "checksum"}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return replace(receipt, checksum=hashlib.sha256(text.encode()).hexdigest())


def _each(buffers: Iterable[Buffer]) -> Iterator[tuple[Buffer, Wiping]]:
    """What erases records of each, while nothing else changes it; those that were deleted meanwhile have no files."""
    for buffer in buffers:
        with ExitStack() as stack:
            try:
                wiping = stack.enter_context(buffer.wiping())
            except NotFoundError:
                continue
            yield buffer, wiping
