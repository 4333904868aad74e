"""What a key costs: sampling and pushing at a service that asks for keys, over one that does not, side by side.

python -m benchmarks.decisions.keys

Two services of their own stores are asked in turn, a request each, with the same bytes over one connection each. Beside
the time of a request stands the processor time that the service takes for it, which other processes of the machine
hardly change (Linux). The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.common.records import Pictures
from memory_format import MEDIA_TYPE
from memory_format.api.terms import JSON_MEDIA_TYPE
from memory_service.store.keys import KeyFile
from memory_service.testing import ServiceProcess

RECORDS, PUSHED, RECORD_BYTES = 1_000, 10, 4_000
NUM_KEYS = 100
"""In the store: the one that is shown is found among others."""
_WARM_UP = 20


class Asked:
    """One service, asked over one connection."""

    def __init__(self, service: ServiceProcess, key: str | None) -> None:
        self._pid = service.process.pid
        self._connection = http.client.HTTPConnection(urlsplit(service.url).netloc)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def ask(self, method: str, path: str, body: bytes, kind: str) -> float:
        """Seconds of one request, from its first byte to the last of its answer."""
        began = time.perf_counter()
        self._connection.request(method, path, body, {"Content-Type": kind, **self._headers})
        response = self._connection.getresponse()
        answer = response.read()
        seconds = time.perf_counter() - began
        if response.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {response.status} {answer[:200]!r}")
        return seconds

    def processor_seconds(self) -> float:
        """What all threads of the service have had of the processors so far."""
        tasks = Path(f"/proc/{self._pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@dataclass(frozen=True)
class Cost:
    """Of a request, in milliseconds: medians. Of means, a good part is Python looking for garbage now and then."""

    wall: float
    processor: float


@contextmanager
def serving(place: Path, *, with_keys: bool) -> Iterator[Asked]:
    """A service of its own store, with or without keys."""
    keys = KeyFile(place)
    made = [keys.make("write", time.time(), buffers=["b", "c-*"])[1] for _ in range(NUM_KEYS if with_keys else 0)]
    # Without the bound on requests of a key, which one that asks as fast as it can would come near.
    environment = {"MEMORY_SERVICE_KEY_REQUESTS": "1000000"}
    with ServiceProcess(place, environment=environment) as service:
        asked = Asked(service, made[-1] if made else None)
        asked.ask("PUT", "/v1/buffers/b", b'{"budget_bytes": 1000000000, "eviction": "fifo"}', JSON_MEDIA_TYPE)
        yield asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2_000, help="requests of each kind to each service (2000)")
    rounds = parser.parse_args().rounds
    pictures = Pictures(RECORD_BYTES)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        both = [stack.enter_context(serving(Path(folder) / str(n), with_keys=bool(n))) for n in (0, 1)]
        for asked in both:
            asked.ask("POST", "/v1/buffers/b/exemplars", pictures.batch(0, RECORDS).arrow, MEDIA_TYPE)
        pushed = pictures.batch(RECORDS, PUSHED).arrow
        kinds: dict[str, tuple[str, str, Callable[[int], bytes]]] = {
            "sample of 1 id": ("sample", JSON_MEDIA_TYPE, lambda step: _draw(step, 1, "ids")),
            "sample of 32": ("sample", JSON_MEDIA_TYPE, lambda step: _draw(step, 32, "records")),
            "sample of 256": ("sample", JSON_MEDIA_TYPE, lambda step: _draw(step, 256, "records")),
            f"push of {PUSHED}": ("exemplars", MEDIA_TYPE, lambda _: pushed),
        }
        found = {name: _compare(both, *kind, rounds=rounds) for name, kind in kinds.items()}
    print(f"{'':15}    without keys          with       ratio    processor time")
    for name, (without, with_key) in found.items():
        ratio, of_processor = with_key.wall / without.wall, with_key.processor / without.processor
        print(f"{name:15} {without.wall:12.3f} ms {with_key.wall:10.3f} ms {ratio:11.3f} {of_processor:17.3f}")
    print(json.dumps({name: {"without": asdict(a), "with": asdict(b)} for name, (a, b) in found.items()}))


def _draw(step: int, batch_size: int, want: str) -> bytes:
    return json.dumps({"batch_size": batch_size, "seed": 0, "step": step, "want": want}).encode()


def _compare(
    both: list[Asked], what: str, kind: str, body: Callable[[int], bytes], *, rounds: int
) -> tuple[Cost, Cost]:
    """What a request costs each of them; who is asked first changes with each round."""
    seconds: tuple[list[float], list[float]] = ([], [])
    worked: tuple[list[float], list[float]] = ([], [])
    for step in range(_WARM_UP + rounds):
        for number in (0, 1) if step % 2 else (1, 0):
            asked = both[number]
            # From one of its turns to the next: what it does behind its answer counts.
            worked[number].append(asked.processor_seconds())
            seconds[number].append(asked.ask("POST", f"/v1/buffers/b/{what}", body(step), kind))
    # The first are of a process that has not done it before.
    first, second = (
        Cost(_median_ms(seconds[n][_WARM_UP:]), _median_ms([b - a for a, b in pairwise(worked[n][_WARM_UP:])]))
        for n in (0, 1)
    )
    return first, second


def _median_ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


if __name__ == "__main__":
    main()
