"""Whose a run's folder and buffers are: the folder holds an id, each of its buffers says it, and one ``learner run`` at
a time works there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from client.files import sync_folder, write_atomically

log = logging.getLogger(__name__)

FILE = "run.json"
LOCK = ".lock"

LONGEST_NAME = 63
"""Of a buffer (docs/service.md)."""


class RunError(RuntimeError):
    """A run cannot go on; the message says what to do."""


@dataclass(frozen=True)
class RunMark:
    """What tells a run from all others: where and when its folder was made, and a random id."""

    id: str
    folder: str
    host: str
    begun: str

    @property
    def description(self) -> str:
        """What its buffers say of themselves."""
        return f"{self._who} in {self.folder} on {self.host}, begun {self.begun}"

    def owns(self, description: str) -> bool:
        """Whether a buffer that says this of itself is the run's."""
        return description.startswith(f"{self._who} ")

    @property
    def _who(self) -> str:
        return f"learner run {self.id}"


def mark_of(out: Path) -> RunMark:
    """The mark of the run in a folder; made where the folder is new.

    Raises:
        RunError: the folder is a copy of another run's, or its mark cannot be read.
    """
    path = out / FILE
    if not path.exists():
        _make(path)
    mark = _read(path)
    original = Path(mark.folder)
    with contextlib.suppress(OSError):  # it is on another machine, or was moved here
        if not original.samefile(out) and _read(original / FILE).id == mark.id:
            raise RunError(
                f"{out} is a copy of {original}, and both would store into the same buffers: delete {path} and the "
                f"folders of its methods to make it a run of its own"
            )
    return mark


def _read(path: Path) -> RunMark:
    text = path.read_bytes()
    try:
        return RunMark(**{name: str(value) for name, value in json.loads(text).items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged ({error}), and says which buffers are the run's: put it back from a copy (the buffers' "
            f"descriptions have the id, folder, host and time), or begin in another folder"
        ) from error


def _make(path: Path) -> None:
    mark = RunMark(
        id=secrets.token_hex(6),
        # A folder's name need not be text.
        folder=os.fsencode(path.parent.resolve()).decode(errors="backslashreplace"),
        host=socket.gethostname(),
        begun=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )
    # Of several processes that begin in one folder, one makes the mark, and all go by it.
    own = path.with_name(f".{path.name}.{mark.id}")
    write_atomically(own, (json.dumps(asdict(mark), indent=2) + "\n").encode())
    try:
        os.link(own, path)
    except FileExistsError:
        pass
    except OSError:  # not on every file system
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    # The mark alone says which buffers are the run's: its name is on the disk before there is one.
    sync_folder(path.parent)


def buffer_name(mark: RunMark, given: str, slug: str) -> str:
    """What the buffer of a method is called.

    Args:
        given: ``memory.buffer``: ``<given>-<slug>``. Without it, what the run's folder was called at first, as far as
            a buffer can bear it, and the beginning of the run's id: runs in folders of one name do not meet.
        slug: of the method.
    """
    if given:
        return f"{given}-{slug.lower()}"
    end = f"-{mark.id[:6]}-{slug}".lower()
    start = re.sub(r"[^a-z0-9._-]+", "-", Path(mark.folder).name.lower()).strip("._-")
    return (start[: LONGEST_NAME - len(end)] or "run") + end


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a run's folder to this process for as long as the block lasts; made where it is not there. The lock ends
    with the process, however that ends.

    Raises:
        RunError: another process works in it; the message says which.
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("a+") as file:
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
