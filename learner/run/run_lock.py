"""One ``learner run`` in a folder at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from learner.run.run_mark import RunError

log = logging.getLogger(__name__)

FILE = ".lock"


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a run's folder to this process for as long as the block lasts; made where it is not there. The lock ends
    with the process, however that ends.

    Raises:
        RunError: another process works in it; the message says which.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            whose = file.read().strip() or "which does not say who it is"
            raise RunError(
                f"another `learner run` works in {out} ({whose}): wait until it ends, or give this one another --out"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            log.warning("%s is on a file system without locks: see that no other run works in it", out)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield
