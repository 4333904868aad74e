"""The users' fields of records in memory, as columns of codes: what filters and groups by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from memory_format.user_fields import FieldValue, written

_NONE = -1


@dataclass(frozen=True)
class FieldColumn:
    """One field of the N records that are known."""

    codes: NDArray[np.int32]
    """``(N,)``: places in :attr:`values`; -1 = the record has no such field."""
    values: tuple[FieldValue, ...]
    code_of: Mapping[str, int]
    """By how a value is written."""


@dataclass(frozen=True)
class FieldIndex:
    """What fields records have. A record's fields never change, so what is known of it stays right."""

    ids: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    """``(N,)``, ascending."""
    columns: Mapping[str, FieldColumn] = field(default_factory=dict)

    def lacking(self, exemplar_ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which records are not known yet."""
        return ~np.isin(exemplar_ids, self.ids)

    def joined(self, exemplar_ids: NDArray[np.uint64], fields: Sequence[Mapping[str, FieldValue]]) -> FieldIndex:
        """With more records, none of which is known, each with its fields."""
        old, count = len(self.ids), len(self.ids) + len(exemplar_ids)
        ids = np.concatenate([self.ids, exemplar_ids])
        order = np.argsort(ids, kind="stable")
        columns = {}
        for name in self.columns.keys() | {name for of_it in fields for name in of_it}:
            before = self.columns.get(name)
            codes = np.full(count, _NONE, np.int32)
            values, code_of = (list(before.values), dict(before.code_of)) if before else ([], {})
            if before:
                codes[:old] = before.codes
            for place, of_it in enumerate(fields, old):
                if name in of_it:
                    codes[place] = code_of.setdefault(written(of_it[name]), len(values))
                    if codes[place] == len(values):
                        values.append(of_it[name])
            columns[name] = FieldColumn(codes[order], tuple(values), code_of)
        return FieldIndex(ids[order], columns)

    def kept(self, exemplar_ids: NDArray[np.uint64]) -> FieldIndex:
        """With only these of its records."""
        keep = np.isin(self.ids, exemplar_ids)
        columns = {name: replace(column, codes=column.codes[keep]) for name, column in self.columns.items()}
        return FieldIndex(self.ids[keep], columns)

    def codes(self, exemplar_ids: NDArray[np.uint64], name: str) -> NDArray[np.int32]:
        """The codes that records have in a field, -1 where they have none, ``(M,)``."""
        column = self.columns.get(name)
        if column is None or not len(self.ids):
            return np.full(len(exemplar_ids), _NONE, np.int32)
        places = np.minimum(np.searchsorted(self.ids, exemplar_ids), len(self.ids) - 1)
        return np.where(self.ids[places] == exemplar_ids, column.codes[places], np.int32(_NONE))

    def matching(self, exemplar_ids: NDArray[np.uint64], name: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
        """Which records have one of these values in a field, ``(M,)``. Values match as they are written."""
        column = self.columns.get(name)
        known = [column.code_of[text] for text in wanted if text in column.code_of] if column else []
        found: NDArray[np.bool_] = np.isin(self.codes(exemplar_ids, name), np.array(known, np.int32))
        return found


NO_FIELDS = FieldIndex()
