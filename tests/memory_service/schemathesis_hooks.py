"""What schemathesis is told beside the OpenAPI document: bodies that are no JSON, and what no schema can say."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.failures import Failure

from memory_format import encode_batch
from memory_format.api.forms import FORMS, ExportForm
from memory_service.store import Store
from tests.memory_service.helpers import make_exemplar

BEYOND_A_SCHEMA = {
    # What two fields say together: a budget in bytes or in samples, its product, a disk limit that is less than it.
    "invalid_budget",
    # Lists of one length, no id twice, a deletion without a filter, more drawn than there is without replacement.
    "invalid_query",
    "nothing to change: arrays, or scores, ranks or both are needed",
    "as many scores, and as many ranks, as exemplar_ids are needed",
    "as many if_revisions as exemplar_ids are needed",
    "as many class_ids as names are needed, each once",
    "an exemplar_id comes twice",
    "a key that may only read pushes nothing that could be trusted",
    "a note has at most 200 printable characters",
    "a class's name comes twice",
    # A text that an earlier answer gave.
    "invalid_cursor",
}
"""Codes, or details of ``invalid_request``, of requests that fit the document."""


def _exports(form: ExportForm) -> list[bytes]:
    """Of buffers of some sizes; the Arrow streams among them are batches to push as well."""
    found = []
    for class_id, num in ((0, 1), (1, 3), (2, 0)):
        with TemporaryDirectory() as directory, Store(Path(directory)) as store:
            buffer, _ = store.create_buffer("a", budget_bytes=10_000)
            buffer.push(encode_batch([make_exemplar(class_id, rank) for rank in range(num)]))
            found.append(b"".join(buffer.export(form=form)))
    return found


for name, form in FORMS.items():
    if name != "parquet":
        schemathesis.openapi.media_type(form.media_type, st.sampled_from(_exports(name)))


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """To JSON Schema 1.0 is an integer. To this service it is none, as docs/service.md says."""
    if isinstance(body, dict):
        return {name: map_body(context, value) for name, value in body.items()}
    if isinstance(body, list):
        return [map_body(context, value) for value in body]
    return int(body) if isinstance(body, float) and body.is_integer() else body


@schemathesis.check
def refused_for_what_no_schema_says(ctx: Any, response: Any, case: Any) -> None:
    """In place of ``positive_data_acceptance``, which takes no 422 at all for what fits the document."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 413, 422):
        return
    document = response.json()
    # Near 2^63 schemathesis 4.32 compares as floats do: 9223372036854775999 counts as no more than the maximum.
    said, _, number = document["detail"].rpartition(", got ")
    beyond_floats = said.endswith(f"less than or equal to {2**63 - 1}") and float(number) == float(2**63 - 1)
    # Base64, of as many values as the shape says.
    of_arrays = document["detail"].startswith("arrays.")
    # Where it tries how short a text may be, it passes over a pattern that is one of two.
    too_short = document["detail"] == "If-Match is one revision in quotes, as ETag said it, or *, got '0'"
    known = BEYOND_A_SCHEMA & {document["code"], document["detail"]}
    if not (known or beyond_floats or of_arrays or too_short):
        raise Failure(operation=case.operation.label, title="What fits the document is refused", message=response.text)
