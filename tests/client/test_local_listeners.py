"""Whoever listens on the socket says anything: a draw believes none of it that is not the service's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import ServiceTimeoutError, Timeout, _local
from client._lent import NotReadError, read_lent
from client._local import LocalWay
from client._network import Deadline
from memory_format import FormatError, checksum, lending
from memory_format.api.answers import LocalSocket
from tests.memory_service.helpers import wait_until

pytestmark = pytest.mark.skipif(not hasattr(socket, "CMSG_SPACE"), reason="descriptors cannot be handed over here")


@contextmanager
def listening(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[LocalWay]:
    """A way to somebody who answers with whatever ``answer`` sends, one connection after another."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(8)
        listener.settimeout(20)

        ended = threading.Event()

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    if ended.is_set():
                        return
                    connection.settimeout(20)
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        way = LocalWay(Timeout(connect=5, read=5))
        way.take_offer(LocalSocket(str(path), "1" * 32))
        try:
            yield way
        finally:
            way.close()
            ended.set()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
                last.connect(str(path))
            thread.join(30)
    path.unlink()


def deadline() -> Deadline:
    return Deadline(10, lambda: 0.0)


HELO = lending.encode_message(lending.HELO, b"1" * 32)
EMPTY = lending.LentRows(1, 2.5, np.zeros(1, lending.ROW_DTYPE), np.zeros(0, np.uint32), ["x"], 1)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" + bytes(100),
        lending.encode_message(lending.HELO, b"2" * 32),
        lending.encode_message(lending.HTTP, b"you are not my user"),
        HELO + b"x",
        HELO[:-5],
        lending.ANSWER.pack(lending.HELO, 2**32 - 1, 0, 0.0, 0, 0, 0),
    ],
    ids=range(7),
)
def test_who_does_not_say_who_it_is_is_not_asked(said: bytes, tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(said)

    with listening(tmp_path / "s", answer) as way:
        assert way.draw(b"{}", deadline(), _local.read_whole) is None
        assert way.offer is None


def sending(*messages: tuple[bytes, list[int]]) -> Callable[[socket.socket], None]:
    """Answers a draw with these bytes and descriptors."""

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HELO)
        connection.recv(1000)
        for content, descriptors in messages:
            if descriptors:
                socket.send_fds(connection, [content], descriptors)
            else:
                connection.sendall(content)

    return answer


@pytest.mark.parametrize("number", range(8))
def test_answers_that_make_no_sense_are_not_believed(number: int, tmp_path: Path) -> None:
    rows = lending.encode_rows(EMPTY)
    before = sorted(os.listdir("/proc/self/fd"))
    with (tmp_path / "file").open("w+b") as file, open("/dev/zero", "rb") as zeros:
        reading, writing = os.pipe()
        said: list[tuple[bytes, list[int]]] = [
            (rows, []),
            (rows, [file.fileno(), file.fileno()]),
            (rows[:30], [file.fileno()]),
            (rows + b"more", [file.fileno()]),
            (b"\xff" * 64, [file.fileno()] * 50),
            (lending.ANSWER.pack(lending.ROWS, lending.MOST_ANSWER_BYTES, 1, 2.5, 1, 0, 1), [file.fileno()]),
            # Nothing that can be read at a place, and something that can, without an end.
            (changed(length=100), [reading]),
            (changed(length=100, crc32=7), [zeros.fileno()]),
        ]
        try:
            with listening(tmp_path / "s", sending(said[number])) as way:
                assert way.draw(b"{}", deadline(), _local.read_whole) is None
                assert way.offer is None
                assert not way.wants_offer
        finally:
            os.close(reading)
            os.close(writing)
    assert sorted(os.listdir("/proc/self/fd")) == before


def changed(**members: int) -> bytes:
    rows = EMPTY.rows.copy()
    for name, value in members.items():
        rows[name] = value
    return lending.encode_rows(lending.LentRows(1, 2.5, rows, EMPTY.swapped, EMPTY.learner_ids, 1))


def test_a_service_that_says_nothing_is_not_waited_for_longer_than_the_timeout(tmp_path: Path) -> None:
    done = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HELO)
        done.wait(20)

    with listening(tmp_path / "s", answer) as way:
        way._timeout = Timeout(connect=5, read=0.2)
        with pytest.raises(ServiceTimeoutError, match=r"no answer within 0\.2 s"):
            way.draw(b"{}", deadline(), _local.read_whole)
        done.set()


def test_a_service_that_stands_still_does_not_hold_up_a_batch_that_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_local, "_MOST_ASKING_SECONDS", 0.1)
    done = lending.REQUEST.pack(lending.DONE, 0)
    heard: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        # Whoever connects meanwhile is told nothing.
        sending((lending.encode_rows(EMPTY), [file.fileno()]))(connection)
        heard.append(connection.recv(100))

    with (tmp_path / "file").open("w+b") as file, listening(tmp_path / "s", answer) as way:
        way._timeout = Timeout(connect=60, read=60)
        assert way.draw(b"{}", deadline(), lambda lent, _: lent.version, b'{"step": 1}') == 1
        wait_until(lambda: heard == [done])
        assert not way._asked


@given(st.data())
def test_a_row_that_was_changed_never_gives_another_record(data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    bodies = [rng.bytes(300) for _ in range(4)]
    rows = np.zeros(4, lending.ROW_DTYPE)
    rows["length"], rows["offset"] = 300, np.arange(4) * 300
    rows["crc32"] = [checksum.crc32(body) for body in bodies]
    lent = lending.LentRows(1, 2.5, rows, np.zeros(0, np.uint32), ["x"], 1)
    answer = bytearray(lending.encode_rows(lent))
    for _ in range(data.draw(st.integers(1, 3))):
        answer[data.draw(st.integers(lending.ANSWER.size, len(answer) - 1))] ^= data.draw(st.integers(1, 255))
    with open(os.memfd_create("bodies"), "w+b", buffering=0) as file:
        file.write(b"".join(bodies))
        try:
            found = lending.decode_rows(bytes(answer))
            batch = read_lent(found, [file.fileno()])
        except (NotReadError, FormatError):
            return
    for body, crc in zip(batch.bodies, batch.headers["crc32"].tolist(), strict=True):
        assert checksum.crc32(body) == crc
        assert bytes(body) in [*bodies, b""]
