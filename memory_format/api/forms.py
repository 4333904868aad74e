"""The files that a buffer is exported as: what they are called, in HTTP and on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Final, Literal

from memory_format.api.terms import EXPORT_MEDIA_TYPE, MEDIA_TYPE
from memory_format.errors import FormatError

ExportForm = Literal["zarr", "arrow-stream", "arrow-file", "parquet"]
"""``zarr``: a Zarr store in a ZIP, which says and keeps all; the others are tables with a row a record."""


@dataclass(frozen=True)
class FileForm:
    """One of them."""

    media_type: str
    suffix: str
    begins: bytes
    """The first bytes of such a file."""
    ends: bytes
    """The last bytes of a whole one; empty where that takes another look."""


FORMS: Final[Mapping[ExportForm, FileForm]] = MappingProxyType(
    {
        "zarr": FileForm(EXPORT_MEDIA_TYPE, ".zarr.zip", b"PK", b""),
        "arrow-stream": FileForm(MEDIA_TYPE, ".arrows", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\0\0\0\0"),
        "arrow-file": FileForm("application/vnd.apache.arrow.file", ".arrow", b"ARROW1\0\0", b"ARROW1"),
        "parquet": FileForm("application/vnd.apache.parquet", ".parquet", b"PAR1", b"PAR1"),
    }
)
"""The first is what is given where nothing else is asked for."""


def form_named(path: PurePath, form: str | None = None) -> ExportForm:
    """The form that is asked for, or without one that of a file's name: ``x.parquet`` is Parquet, ``x.arrow`` an Arrow
    file, ``x.arrows`` an Arrow stream, ``x.zip`` or ``x`` is Zarr.

    Raises:
        FormatError: ``invalid_query``: there is no such form.
    """
    known: ExportForm
    for known in FORMS:
        if form == known or (form is None and path.suffix.lower() == FORMS[known].suffix):
            return known
    if form is not None:
        words = f"a buffer is exported as {', '.join(FORMS)}, and not as {form!r:.50}"
        raise FormatError(words, code="invalid_query")
    if path.suffix.lower() not in ("", ".zip"):
        # Nobody looks for a ZIP in a file that is called .csv.
        known_names = " or ".join(f"x{each.suffix}" for each in FORMS.values())
        raise FormatError(f"a buffer is exported as {known_names}, and not as {path.name!r:.100}", code="invalid_query")
    return "zarr"
