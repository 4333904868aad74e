"""Open a store in a fresh process and say how long it took: ``python -m benchmarks.storage.opening DIRECTORY``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.storage.contestants.ours import BUFFER, open_store


def main() -> None:
    started = time.perf_counter()
    with open_store(Path(sys.argv[1])) as store:
        store.buffer(BUFFER)
        print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
