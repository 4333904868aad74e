"""A PostgreSQL server of one's own, with the programs of Debian's package, and a schema of it for each store."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

PASSWORD = "geheim"
"""In every URL; whoever may get to the socket needs none."""


class NoPostgresError(RuntimeError):
    """No PostgreSQL server is installed here."""


class PostgresServer:
    """Listens on a Unix socket; what it holds is gone with it.

    Args:
        durable: a commit waits for the disk, as it does where data matter.
        network: file of a Linux network namespace, as ``/run/netns/NAME``: it runs there, and listens on the link-local
            addresses that there are, too. For root alone.

    Raises:
        NoPostgresError: none is installed.
    """

    def __init__(self, *, durable: bool = False, network: Path | None = None) -> None:
        self._bin = _programs()
        self._network = network
        self._fsync = "on" if durable else "off"
        # Short, as a socket's path must be; and where another user can get to.
        self._directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._numbers = itertools.count()
        if os.getuid() == 0:
            shutil.chown(self._directory, "nobody")
        self._run(
            "initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"
        )
        if network is not None:
            with (self._directory / "data" / "pg_hba.conf").open("a") as allowed:
                allowed.write("host all all fe80::/10 trust\n")
        self.start()

    def start(self) -> None:
        addresses = "" if self._network is None else "*"
        options = (
            f"-k {self._directory} -c listen_addresses='{addresses}' -c fsync={self._fsync} -c max_connections=100"
        )
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """At once, as a crash would."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    def new_schema(self) -> str:
        """URL of a schema that nobody has used."""
        name = f"s{next(self._numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url(options=f"-csearch_path={name}")

    @property
    def socket(self) -> str:
        """Directory of the socket."""
        return str(self._directory)

    @property
    def pid(self) -> int:
        """Of the process that starts all others."""
        return int((self._directory / "data" / "postmaster.pid").read_text().split()[0])

    def url(self, database: str = "postgres", **query: str) -> str:
        given = {"host": str(self._directory), **query}
        return f"postgresql+psycopg://postgres:{PASSWORD}@/{database}?" + "&".join(
            f"{k}={quote(v)}" for k, v in given.items()
        )

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """In the database ``postgres``; the rows that it gives, of several statements the last."""
        with psycopg.connect(f"host={self._directory} user=postgres dbname=postgres", autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            while cursor.nextset():
                pass
            return [] if cursor.description is None else cursor.fetchall()

    def waits(self) -> bool:
        """Whether anybody waits for a lock."""
        return bool(self.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))

    def _run(self, program: str, *arguments: str) -> None:
        # It refuses to run as root.
        who: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        there: list[str] = []
        if self._network is not None:
            # Who goes there has to be root still.
            nobody = pwd.getpwnam("nobody")
            there = ["nsenter", f"--net={self._network}", f"--setuid={nobody.pw_uid}", f"--setgid={nobody.pw_gid}"]
            who = {}
        done = subprocess.run(
            [*there, self._bin / program, *arguments],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            **who,
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with status {done.returncode}: {done.stderr}")


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve())
    if not found:
        raise NoPostgresError("there is no PostgreSQL server here: apt-get install postgresql")
    return found[-1].parent
