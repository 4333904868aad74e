"""A service that is forked from a process which has imported it: one like any other, that is there in a moment."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

_READY = re.compile(r"memory-service listening on (http://\S+) ")
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["pytest", "memory_service.cli", "psycopg", "sqlalchemy.dialects.postgresql", __name__])


class ForkedService:
    """As :class:`memory_service.testing.ServiceProcess`, which costs seconds of a processor each time.

    Args:
        data, arguments, environment, log, start_seconds: as there.

    Raises:
        RuntimeError: it did not get ready.
    """

    def __init__(
        self, data: Path, *arguments: str, environment: Mapping[str, str], log: Path, start_seconds: float = 60
    ) -> None:
        ready, said = _server.Pipe(duplex=False)
        given = ["serve", "--data", str(data), "--port", "0", *arguments]
        self.process = _server.Process(target=_serve, args=(given, {**os.environ, **environment}, log, said))
        self.process.start()
        said.close()
        line = ""
        while ready.poll(start_seconds) and (more := os.read(ready.fileno(), 4096).decode()):
            line += more
            if line.endswith("\n"):
                break
        ready.close()
        if (found := _READY.match(line)) is None:
            self.kill()
            raise RuntimeError(f"the service said {line!r} and not that it is ready; log: {log.read_text()[-2000:]}")
        self.url = found[1]

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _serve(arguments: list[str], environment: Mapping[str, str], log: Path, said: Connection) -> None:
    from memory_service.command import main

    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(said.fileno(), 1)
    said.close()
    sys.argv[1:] = arguments
    sys.exit(main())
