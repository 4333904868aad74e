"""What changes exemplars of a buffer that are stored: scores, arrays, deletions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from client import _changes, _listing
from client._named import Named
from client._params import Fields, Many, conditions, numbers
from client.models import DeleteResult, UpdateResult
from memory_format.api.receipts import KeptReceipt, ReceiptList
from memory_format.extras import ArrayDtype


@dataclass(frozen=True)
class Changing(Named):
    """The part of :class:`client.Buffer` that changes what is stored."""

    def update_scores(
        self,
        exemplar_ids: ArrayLike,
        scores: ArrayLike | None = None,
        ranks: ArrayLike | None = None,
        *,
        if_version: int | None = None,
    ) -> UpdateResult:
        """Give exemplars other scores, ranks or both. They count from the next eviction and sample on.

        Many are sent in several requests, one after another; with ``if_version`` in one.

        Args:
            exemplar_ids: ``(N,)`` integers, each once. Those that the buffer does not hold (any more) are passed
                over and named in the result.
            scores: ``(N,)`` finite numbers; kept as float32.
            ranks: ``(N,)`` integers, 0..2**32-1, the best first.
            if_version: only if the buffer is at this version. It is not tried again after a broken connection,
                as the buffer may be at the next version then by this very request.

        Raises:
            ValueError: the arrays are not such, or more than 100,000 go with ``if_version``.
            ConflictError: ``stale_version``.
            FormatError: a number is out of range.
            ServiceError: no usable answer. Like the errors above it carries ``ids_acknowledged`` in ``details``:
                how many of the first ids had been dealt with before.
        """
        return _changes.update(self.client.session, self.name, exemplar_ids, scores, ranks, if_version)

    def replace(
        self,
        exemplar_ids: ArrayLike,
        arrays: Mapping[str, ArrayLike],
        *,
        array_dtypes: Mapping[str, ArrayDtype] | None = None,
        if_revisions: ArrayLike | None = None,
    ) -> UpdateResult:
        """Give exemplars other arrays, such as logits of the model of now. Snapshots keep those that they have.

        What is new takes the place of what was there in one step, and is charged for it. The exemplars keep their ids,
        scores, ranks and age. Many are sent in several requests (2 MiB of values, 4,096 ids), each done or not done.

        Args:
            exemplar_ids: ``(N,)`` integers, each once. Those that the buffer does not hold (any more) are passed over
                and named in the result.
            arrays: by name, ``(N, ...)`` numbers. Arrays that are not named stay.
            array_dtypes: what each is stored as: ``float16``, ``float32`` or ``uint8``; default as the array that it
                replaces, and ``float16`` where there is none.
            if_revisions: ``(N,)`` integers, :attr:`ReplayBatch.revision`: replace them only if no arrays of these
                exemplars were replaced since, and all are held. Who asks again for what is done is told that it is.

        Raises:
            ValueError: the arrays are not such.
            ConflictError: ``precondition_failed``; ``details`` have ``exemplar_id``, its ``revision`` and
                ``expected_revision``.
            NotFoundError: ``unknown_exemplar``: one is not held, and ``if_revisions`` are given.
            BudgetError: the new arrays do not fit.
            FormatError: a value is out of its type's range, or a record would be too large.
            ServiceError: no usable answer. Like the errors above it carries ``ids_acknowledged`` in ``details``.
        """
        return _changes.replace_arrays(self.client.session, self.name, exemplar_ids, arrays, array_dtypes, if_revisions)

    def delete(
        self,
        exemplar_ids: int | ArrayLike | None = None,
        *,
        class_id: Many[int] = None,
        phase: Many[int] = None,
        learner_id: Many[str] = None,
        fields: Fields = None,
        erase: bool = False,
    ) -> DeleteResult:
        """Delete exemplars: those named, or those that match all the conditions given. Snapshots keep theirs.

        Args:
            exemplar_ids: one id or several, 500 in a request. Those that the buffer does not hold (any more) are
                passed over and named in the result.
            erase: from snapshots, forks and every file of the service, too; the result has receipts. Those of ids
                that were erased before are among them.

        Returns:
            what was deleted; after a broken connection, ids that an earlier try deleted may be lacking where
            conditions or several ids were given. What such a try has erased, :meth:`receipts` tell of.

        Raises:
            ValueError: neither ids nor conditions are given, or both.
        """
        where = conditions(class_id, phase, learner_id, fields=fields)
        if (exemplar_ids is None) == (not where):
            raise ValueError(
                "either exemplar_ids are needed, or at least one of class_id, phase, learner_id and fields"
            )
        if exemplar_ids is None:
            return _changes.delete_matching(self.client.session, self.name, where, erase)
        ids = numbers("exemplar_ids", np.atleast_1d(np.asarray(exemplar_ids))).tolist()
        if len(ids) == 1 and not erase:
            return _changes.delete_one(self.client.session, self.name, ids[0])
        result = _changes.delete_listed(self.client.session, self.name, ids, erase)
        if not (erase and result.missing):
            return result
        missing, new = {*result.missing}, {receipt.checksum for receipt in result.receipts}
        earlier = [
            kept.receipt
            for kept in self.receipts()
            if self.name in kept.buffers
            and kept.receipt.checksum not in new
            and not missing.isdisjoint(kept.receipt.exemplar_ids)
        ]
        return replace(result, receipts=(*result.receipts, *earlier))

    def receipts(self) -> Iterator[KeptReceipt]:
        """Receipts of what was erased from the buffer, or from what it was forked from, newest first."""
        path, where = "/v1/erasures", {"buffer": self.name}
        return _listing.listed(self.client.session, path, ReceiptList, lambda page: page.receipts, where=where)
