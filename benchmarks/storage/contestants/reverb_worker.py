"""Runs in dm-reverb's own environment: a server in one process, and a client in another that keeps the time.

    python reverb_worker.py serve CAPACITY       a server; prints its port, ends with its stdin
    python reverb_worker.py client CAPACITY FORM takes commands as JSON lines, answers with JSON lines

FORM is what an item holds: "bytes" one string, "pixels" an array of patches (K, P, P, 3) and one of token ids; the
exchange file has the two end to end. Commands: {"do": "push", "bodies": FILE, "lengths": [..], "shapes": null or the
shapes of the patches}, {"do": "sample", "count": N, "how": "client" or "dataset"}, {"do": "contents", "count": N,
"to": FILE}, {"do": "memory"}.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import reverb
import tensorflow as tf

TABLE = "records"
SKIPPED_BATCHES, TIMED_BATCHES = 3, 6
# Of an item's columns; the first axis is reverb's, time.
DTYPES = {"bytes": [tf.string], "pixels": [tf.uint8, tf.int64]}
RANKS = {"bytes": [1], "pixels": [5, 2]}


def serve(capacity: int) -> None:
    port = _free_port()
    table = reverb.Table(
        TABLE,
        sampler=reverb.selectors.Uniform(),
        remover=reverb.selectors.Fifo(),
        max_size=capacity,
        rate_limiter=reverb.rate_limiters.MinSize(1),
    )
    server = reverb.Server(tables=[table], port=port)
    print(port, flush=True)
    sys.stdin.read()
    server.stop()


def columns_of(body: bytes, shape: Sequence[int] | None) -> list[Any]:
    """An item's columns. A body is a string, so that none is padded."""
    if shape is None:
        return [np.array(body, dtype=object)]
    size = int(np.prod(shape))
    patches = np.frombuffer(body, dtype=np.uint8, count=size).reshape(shape)
    return [patches, np.frombuffer(body, dtype=np.int64, offset=size)]


def push(client: Any, items: Sequence[list[Any]]) -> float:
    """Seconds to store items."""
    started = time.perf_counter()
    with client.trajectory_writer(num_keep_alive_refs=1) as writer:
        for number, columns in enumerate(items, 1):
            writer.append(columns)
            writer.create_item(TABLE, 1.0, [column[-1:] for column in writer.history])
            if number % 100 == 0:
                writer.flush()  # it warns where more are under way
        writer.flush()
    return time.perf_counter() - started


def sample(client: Any, count: int) -> list[Any]:
    return [item.data for item in client.sample(TABLE, num_samples=count, emit_timesteps=False)]


def time_sample(client: Any, count: int) -> float:
    started = time.perf_counter()
    sample(client, count)
    return time.perf_counter() - started


def body_of(columns: Iterable[Any]) -> bytes:
    """The bytes from which :func:`columns_of` made an item."""
    return b"".join(content if isinstance(content, bytes) else content.tobytes() for (content,) in columns)


def time_dataset(address: str, count: int, form: str) -> float:
    """Seconds a batch of reverb's own pipeline, which fetches ahead, once it runs steadily."""
    dataset = reverb.TrajectoryDataset(
        address,
        TABLE,
        dtypes=DTYPES[form],
        shapes=[tf.TensorShape([None] * rank) for rank in RANKS[form]],
        max_in_flight_samples_per_worker=2 * count,
    )
    batches = iter(dataset.batch(count))
    for _ in range(SKIPPED_BATCHES):
        next(batches)
    started = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        next(batches)
    return (time.perf_counter() - started) / TIMED_BATCHES


def client_loop(capacity: int, form: str) -> None:
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", str(capacity)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    address = f"localhost:{server.stdout.readline().strip()}"
    client = reverb.Client(address)
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        if command["do"] == "push":
            with open(command["bodies"], "rb") as file:
                bodies = [file.read(length) for length in command["lengths"]]
            shapes = command["shapes"] or [None] * len(bodies)
            answer["seconds"] = push(client, list(map(columns_of, bodies, shapes)))
        elif command["do"] == "sample":
            how, count = command["how"], command["count"]
            answer["seconds"] = time_sample(client, count) if how == "client" else time_dataset(address, count, form)
        elif command["do"] == "contents":
            bodies = [body_of(columns) for columns in sample(client, command["count"])]
            with open(command["to"], "wb") as to:
                to.write(b"".join(bodies))
            answer["lengths"] = [len(body) for body in bodies]
        elif command["do"] == "memory":
            with open(f"/proc/{server.pid}/statm") as statm:
                answer["server_bytes"] = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        print(json.dumps(answer), flush=True)
    server.stdin.close()
    server.wait(20)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        client_loop(int(sys.argv[2]), sys.argv[3])
