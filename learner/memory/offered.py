"""What a phase offers to the memory, written down before the push.

A run that is interrupted behind its push masks, selects and encodes the phase's samples again, and pushes them again
under the same key. On a GPU some of that comes out otherwise the next time, and the service refuses other records under
a known key (``idempotency_key_reused``). So what was written down is what is pushed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.files import DamagedFileError, write_atomically
from memory_format import FormatError, Record, decode_batch, encode_batch


def first_offered(
    path: Path, key: str, samples: Sequence[int], records: Sequence[Record]
) -> tuple[Sequence[int], Sequence[Record]]:
    """The rows and their records as they were first offered under this key, which may be now.

    Raises:
        DamagedFileError: the file cannot be read.
    """
    if (known := _read(path, key)) is not None:
        return known
    file = io.BytesIO()
    batch = np.frombuffer(encode_batch(records), dtype=np.uint8)
    np.savez(file, key=np.array(key), samples=np.array(samples, dtype=np.int64), batch=batch)
    write_atomically(path, file.getbuffer())
    return samples, records


def _read(path: Path, key: str) -> tuple[list[int], list[Record]] | None:
    """None: there is no such file, or it is of another push."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                return None
            return kept["samples"].tolist(), decode_batch(kept["batch"].tobytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, FormatError) as error:
        raise DamagedFileError(path, error) from error
