#!/usr/bin/env bash
# uvloop 0.23.0: `asyncio.sleep(0.0004)` does not wait, and `sleep(0.0014)` is over before its time in nine of ten cases.
#
# What: 200 sleeps of 0.4 ms and of 1.4 ms, one after another; sleeping to a deadline in 20.4 ms by `while left: sleep(left)`, five times; and how
#   many times loop.time() tells in ten milliseconds. With asyncio's own loop and with uvloop.
# Guess: a sleep may take longer than was asked for, and never less, as of asyncio's loop, and one sleep reaches the deadline.
# Seen: uvloop rounds to whole milliseconds, up and down. 200 sleeps of 0.4 ms take less than 10 ms in all, those of 1.4 ms end after
#   1.0 to 1.4, and short of the deadline the loop turns some hundred times without a pause. loop.time() goes in steps of a millisecond.
# For this project: uvicorn takes uvloop where it is installed. The pause behind a draw is measured by loop.time(), whose steps are right in
#   the mean; a pause that was measured finely would be rounded off to nothing (http/admission.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check uvloop==0.23.0

cat > "$folder/slept.py" <<'PYTHON'
import asyncio
import sys
import time

import uvloop

COUNT = 200


async def sleeps(seconds):
    """Seconds that all took, and how many were over early."""
    early, began = 0, time.monotonic()
    for _ in range(COUNT):
        start = time.monotonic()
        await asyncio.sleep(seconds)
        early += time.monotonic() - start < seconds
    return time.monotonic() - began, early


async def to_a_deadline():
    """Sleeps that it took."""
    end, turns = time.monotonic() + 0.0204, 0
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(left)
        turns += 1
    return turns


async def measure():
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.05)
    short, longer = await sleeps(0.0004), await sleeps(0.0014)
    turns = max([await to_a_deadline() for _ in range(5)])
    end, times = time.monotonic() + 0.01, set()
    while time.monotonic() < end:
        times.add(loop.time())
    return short, longer, turns, len(times)


seen = {"asyncio": asyncio.run(measure()), "uvloop": uvloop.run(measure())}
print(f"Python {sys.version.split()[0]}, uvloop {uvloop.__version__}")
for name, (short, longer, turns, times) in seen.items():
    print(f"{name}: {COUNT} sleeps of 0.4 ms: at least 80 ms expected, seen {1000 * short[0]:.1f}, {short[1]} over early;")
    print(f"    {COUNT} of 1.4 ms: {longer[1]} over early; sleeps to a deadline: expected 1, seen {turns}; {times} times told in 10 ms")
print("source: uvloop/loop.pyx: call_later rounds seconds to milliseconds; time() is libuv's uv_now in milliseconds")
short, longer, turns, times = seen["asyncio"]
assert short[0] >= 0.08 and short[1] == longer[1] == 0 and times > 100, f"changed: asyncio {seen['asyncio']}"
short, longer, turns, times = seen["uvloop"]
assert short[1] > COUNT // 2 and longer[1] > COUNT // 2 and turns > 10 and times <= 20, f"changed: uvloop {seen['uvloop']}"
print("as described")
PYTHON
cd "$folder" && venv/bin/python slept.py
