"""How long a sampler waits beside somebody who is busy, slow or rude, over how long it waits alone.

    python -m benchmarks.decisions.neighbours                 all of it, about ten minutes on two cores
    python -m benchmarks.decisions.neighbours --only pushes,imports --seconds 5 --rounds 3

One service, one sampler that asks for a batch every 50 ms, and one neighbour at a time in a process of its own. In each
round the sampler is timed alone, then beside the neighbour. One only computes, on two cores, and asks the service for
nothing: what it costs is the machine's share. Neighbours of a service are on other machines as a rule, so here their
processes get what sampler and service leave of the processor (``--nice 19``); ``--nice 0`` has all compete. The ratio
of the two 99th percentiles is taken within the round, and the median of the rounds is printed. So is what eight pushers
get done beside eight samplers, over alone.
Progress goes to stderr; the last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import http.client
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common.machine import directory_on_disk, machine
from benchmarks.common.processes import ChildProcess, python_module
from benchmarks.common.records import Noise, Pictures
from benchmarks.common.service import Service
from memory_format import MEDIA_TYPE

BUFFER = "records"
BATCH = 64
_RECORDS = 2_000
_RECORD_BYTES = 20_000
_EVERY = 0.05
_ROOMY = 2**36
_BLOCK = bytes(2**20)


class Connection:
    """One HTTP connection that asks again and again."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._http = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
        self._http.connect()
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: bytes = b"", content_type: str = "application/json") -> bytes:
        self._http.request(method, path, body, {"Content-Type": content_type} if body else {})
        answer = self._http.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return content

    def sample(self, step: int) -> bytes:
        wanted = {"batch_size": BATCH, "seed": 1, "step": step}
        return self.ask("POST", f"/v1/buffers/{BUFFER}/sample", json.dumps(wanted).encode())


# Neighbours: each a function of the service's address that does its work once, over and over, in some threads.


def pushes(connection: Connection, files: Path, number: int) -> None:
    connection.ask("POST", f"/v1/buffers/pushed-{number}/exemplars", _read(files / "few.arrow"), MEDIA_TYPE)


def picture_pushes(connection: Connection, files: Path, number: int) -> None:
    connection.ask("POST", f"/v1/buffers/pushed-{number}/exemplars", _read(files / "pictures.arrow"), MEDIA_TYPE)


def large_pushes(connection: Connection, files: Path, number: int) -> None:
    connection.ask("POST", f"/v1/buffers/pushed-{number}/exemplars", _read(files / "many.arrow"), MEDIA_TYPE)


def samples(connection: Connection, files: Path, number: int) -> None:
    connection.sample(int(time.monotonic_ns() % 2**31))


def imports(connection: Connection, files: Path, number: int) -> None:
    # A turn ends in the middle of it.
    with contextlib.suppress(RuntimeError):
        connection.ask("DELETE", f"/v1/buffers/imported-{number}")
    connection.ask("POST", f"/v1/buffers/imported-{number}/import", _read(files / "export.zip"), "application/zip")


def exports(connection: Connection, files: Path, number: int) -> None:
    connection.ask("GET", f"/v1/buffers/{BUFFER}/export")


def pictures(connection: Connection, files: Path, number: int) -> None:
    # Beyond what is drawn at once it is told to come again.
    with contextlib.suppress(RuntimeError):
        connection.ask("GET", f"/v1/buffers/{BUFFER}/exemplars/{1 + number}/image.png?scale=8")


def backups(connection: Connection, files: Path, number: int) -> None:
    connection.ask("GET", "/v1/backup")


def queries(connection: Connection, files: Path, number: int) -> None:
    connection.ask("GET", f"/v1/buffers/{BUFFER}/exemplars?sort=-score&limit=1000")


def stalled_readers(connection: Connection, files: Path, number: int) -> None:
    with _raw(connection) as raw:
        wanted = json.dumps({"batch_size": 512, "seed": number, "step": 0}).encode()
        raw.sendall(_head("POST", f"/v1/buffers/{BUFFER}/sample", len(wanted)) + wanted)
        time.sleep(5)


def slow_heads(connection: Connection, files: Path, number: int) -> None:
    with _raw(connection) as raw, contextlib.suppress(OSError):
        raw.sendall(b"GET /healthz HTTP/1.1\r\n")
        for _ in range(2000):
            raw.sendall(b"X-A: 1\r\n" * 50)
            time.sleep(0.0005)


def slow_bodies(connection: Connection, files: Path, number: int) -> None:
    with _raw(connection) as raw, contextlib.suppress(OSError):
        raw.sendall(_head("POST", "/v1/buffers/pushed-0/exemplars", 1600, MEDIA_TYPE))
        for _ in range(50):
            raw.sendall(b"\0")
            time.sleep(0.1)


def computing(connection: Connection, files: Path, number: int) -> None:
    hashlib.sha256(_BLOCK).digest()


NEIGHBOURS: dict[str, tuple[Callable[[Connection, Path, int], None], int]] = {
    "computing": (computing, 2),
    "pushes": (pushes, 8),
    "large pushes": (large_pushes, 2),
    "picture pushes": (picture_pushes, 1),
    "samples": (samples, 8),
    "imports": (imports, 2),
    "exports": (exports, 2),
    "backups": (backups, 1),
    "pictures": (pictures, 16),
    "queries": (queries, 2),
    "stalled readers": (stalled_readers, 12),
    "slow heads": (slow_heads, 8),
    "slow bodies": (slow_bodies, 64),
}
"""Name -> what it does, and in how many threads at once."""
SLOW = ("stalled readers", "slow heads", "slow bodies")
"""These do not finish what they begin."""


@functools.cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


def _raw(connection: Connection) -> socket.socket:
    return socket.create_connection(connection._http.sock.getpeername(), timeout=30)


def _head(method: str, path: str, length: int, content_type: str = "application/json") -> bytes:
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {content_type}",
        f"Content-Length: {length}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def be_neighbour(name: str, url: str, files: Path, nice: int) -> None:
    """Do a neighbour's work until stdin ends; each piece of work done is counted, and the count is printed then."""
    os.nice(nice)
    work, threads = NEIGHBOURS[name]
    ended = threading.Event()
    done = [0] * threads

    def run(number: int) -> None:
        connection = Connection(url)
        while not ended.is_set():
            try:
                work(connection, files, number)
                done[number] += 1
            except (OSError, http.client.HTTPException):
                connection = Connection(url)

    for number in range(threads):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    ended.set()
    print(sum(done), flush=True)
    os._exit(0)


def neighbour_command(name: str, url: str, files: Path, nice: int) -> list[str]:
    return python_module("benchmarks.decisions.neighbours", "--be", name, url, str(files), str(nice))


def latencies(url: str, seconds: float, first: int) -> list[float]:
    """Seconds that each batch took, one asked for every 50 ms."""
    connection = Connection(url)
    found = []
    started = time.perf_counter()
    for step in range(int(seconds / _EVERY)):
        time.sleep(max(0.0, started + step * _EVERY - time.perf_counter()))
        before = time.perf_counter()
        connection.sample(first + step)
        found.append(time.perf_counter() - before)
    return found


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def prepare(service: Service, files: Path) -> None:
    photographs, noise = Pictures(_RECORD_BYTES), Noise()
    service.create_buffer(BUFFER, _ROOMY)
    for start in range(0, _RECORDS, 500):
        service.push(BUFFER, photographs.batch(start, 500).arrow)
    (files / "few.arrow").write_bytes(photographs.batch(0, 32).arrow)
    (files / "pictures.arrow").write_bytes(photographs.batch(0, 1_000).arrow)
    (files / "many.arrow").write_bytes(noise.batch(0, 10_000).arrow)
    (files / "export.zip").write_bytes(Connection(service.url).ask("GET", f"/v1/buffers/{BUFFER}/export"))
    for number in range(8):
        service.create_buffer(f"pushed-{number}", 40_000_000)


def measure(place: Path, names: Sequence[str], seconds: float, rounds: int, nice: int) -> dict[str, dict[str, float]]:
    files = place / "files"
    files.mkdir()
    found: dict[str, dict[str, float]] = {}
    with Service(place / "store") as service:
        prepare(service, files)
        latencies(service.url, 2.0, 0)
        for name in names:
            ratios, alone_ms, beside_ms = [], [], []
            for turn in range(rounds):
                alone = latencies(service.url, seconds, 1000 * turn)
                command = neighbour_command(name, service.url, files, nice)
                with ChildProcess(command, place / "neighbour.log") as neighbour:
                    time.sleep(0.5)
                    beside = latencies(service.url, seconds, 1000 * turn)
                    if not work_done(neighbour) and name not in SLOW:
                        raise RuntimeError(f"{name}: got nothing done: {(place / 'neighbour.log').read_text()[-500:]}")
                ratios.append(p99(beside) / p99(alone))
                alone_ms.append(1000 * p99(alone))
                beside_ms.append(1000 * p99(beside))
            found[name] = {
                "ratio": round(statistics.median(ratios), 2),
                "alone_ms": round(statistics.median(alone_ms), 1),
                "beside_ms": round(statistics.median(beside_ms), 1),
            }
            print(f"{name:16} {found[name]}", file=sys.stderr, flush=True)
    return found


def work_done(neighbour: ChildProcess) -> int:
    """End a neighbour; returns how often it did its work."""
    assert neighbour.process.stdin is not None
    neighbour.process.stdin.close()
    return int(neighbour.read_line())


def pushes_beside_samples(place: Path, seconds: float, rounds: int) -> dict[str, float]:
    """Pushes a second of eight pushers: alone, beside eight samplers, and the ratio. All are of one priority."""

    def per_second(*beside: str) -> float:
        with contextlib.ExitStack() as stack:
            *_, pushers = (
                stack.enter_context(
                    ChildProcess(neighbour_command(name, service.url, files, nice=0), place / f"{name}.log")
                )
                for name in (*beside, "pushes")
            )
            time.sleep(seconds)
            return work_done(pushers) / seconds

    files = place / "files"
    files.mkdir()
    with Service(place / "store") as service:
        prepare(service, files)
        alone, beside = zip(*((per_second(), per_second("samples")) for _ in range(rounds)), strict=True)
    ratios = [slowed / free for free, slowed in zip(alone, beside, strict=True)]
    medians = [statistics.median(values) for values in (ratios, alone, beside)]
    return dict(zip(("ratio", "alone", "beside"), (round(value, 2) for value in medians), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(name for name in NEIGHBOURS if name != "samples"), help="by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nice", type=int, default=19, help="of the neighbour's process; 0 competes with the service")
    parser.add_argument("--directory", type=Path, help="where the store is made (default: a temporary place on a disk)")
    parser.add_argument("--be", nargs=4, metavar=("NAME", "URL", "FILES", "NICE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.be is not None:
        be_neighbour(options.be[0], options.be[1], Path(options.be[2]), int(options.be[3]))
        return 0
    names = options.only.split(",")
    if unknown := set(names) - set(NEIGHBOURS):
        parser.error(f"unknown neighbours: {', '.join(sorted(unknown))}; there are {', '.join(NEIGHBOURS)}")
    with tempfile.TemporaryDirectory(prefix="bench-neighbours-", dir=options.directory or directory_on_disk()) as place:
        (Path(place) / "1").mkdir()
        (Path(place) / "2").mkdir()
        found = measure(Path(place) / "1", names, options.seconds, options.rounds, options.nice)
        pushed = pushes_beside_samples(Path(place) / "2", options.seconds, options.rounds)
    document = {"p99_beside_over_alone": found, "pushes_a_second_beside_samples": pushed, "machine": machine()}
    print(json.dumps(document), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
