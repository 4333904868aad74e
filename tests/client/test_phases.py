"""Learners wait for each other's phases: in several processes, until a deadline, or until somebody closes."""

from __future__ import annotations

import multiprocessing
import pickle
import threading

import pytest

from client import Buffer, MemoryClient, PhaseTimeoutError, ServiceUnavailableError
from memory_format import FormatError, NotFoundError
from tests.client.samples import make_many

ROUNDS = 4


def learn(url: str, name: str, learner_id: str) -> None:
    """Push, say so, wait for the others, and look: all of the phase is there."""
    with MemoryClient(url) as memory:
        buffer = memory.buffer(name)
        for phase in range(ROUNDS):
            buffer.push(make_many(3, learner_id=learner_id, phase=phase))
            buffer.enter_phase(phase + 1, learner_id=learner_id, ended=phase + 1 == ROUNDS)
            buffer.wait_for_phase(phase + 1, ["ann", "ben"], timeout=60)
            for other in ("ann", "ben"):
                assert len(list(buffer.query(phase=phase, learner_id=other))) == 3


def test_processes_go_through_their_phases_in_step(buffer: Buffer) -> None:
    spawn = multiprocessing.get_context("spawn")
    learners = [spawn.Process(target=learn, args=(buffer.client.url, buffer.name, name)) for name in ("ann", "ben")]
    for learner in learners:
        learner.start()
    for learner in learners:
        learner.join(120)
    assert [learner.exitcode for learner in learners] == [0, 0]
    assert {name: (at.phase, at.ended) for name, at in buffer.phases().items()} == dict.fromkeys(
        ("ann", "ben"), (ROUNDS, True)
    )


def test_who_is_late_is_named(buffer: Buffer) -> None:
    buffer.enter_phase(2, learner_id="ann")
    buffer.enter_phase(1, learner_id="ben")
    with pytest.raises(PhaseTimeoutError, match=r"1 of 3 learners are in it after 0 s; behind: ben, cid") as late:
        buffer.wait_for_phase(2, ["ann", "ben", "cid"], timeout=0)
    assert isinstance(late.value, TimeoutError)
    assert (late.value.missing, late.value.phases["ben"].phase) == (("ben", "cid"), 1)
    again = pickle.loads(pickle.dumps(late.value))
    assert (type(again), str(again), vars(again)) == (PhaseTimeoutError, str(late.value), vars(late.value))
    with pytest.raises(PhaseTimeoutError, match=r"1 of 2 learners are in it .* behind: ben"):
        buffer.wait_for_phase(2, 2, timeout=0.2)


def test_who_has_ended_holds_nobody_up_and_who_leaves_is_not_known(buffer: Buffer) -> None:
    buffer.enter_phase(1, learner_id="ann", ended=True)
    buffer.enter_phase(3, learner_id="ben")
    assert set(buffer.wait_for_phase(3, 2, timeout=0)) == {"ann", "ben"}
    # A run that begins again goes back.
    buffer.enter_phase(0, learner_id="ann")
    with pytest.raises(PhaseTimeoutError):
        buffer.wait_for_phase(3, ["ann"], timeout=0)
    for _ in range(2):
        buffer.leave_phases("ann")
    assert list(buffer.phases()) == ["ben"]


def test_a_wait_ends_when_the_client_is_closed(memory: MemoryClient, buffer: Buffer) -> None:
    begun, found = threading.Event(), []

    def wait(client: MemoryClient) -> None:
        begun.set()
        try:
            Buffer(client, buffer.name).wait_for_phase(1, 1, timeout=600)
        except ServiceUnavailableError as error:
            found.append(error.message)

    other = memory.clone()
    thread = threading.Thread(target=wait, args=(other,))
    thread.start()
    begun.wait()
    other.stop()
    thread.join(60)
    other.close()
    assert found == ["the client is closed"]


def test_what_makes_no_sense_is_said(memory: MemoryClient, buffer: Buffer) -> None:
    for phase, learners, timeout in ((-1, 1, 1), (0, 0, 1), (0, "ann", 1), (0, 1, -1), (0, 1, float("nan"))):
        with pytest.raises(ValueError, match=r"phase|learners|timeout"):
            buffer.wait_for_phase(phase, learners, timeout=timeout)
    with pytest.raises(FormatError):
        buffer.enter_phase(65_536, learner_id="ann")
    with pytest.raises(NotFoundError):
        Buffer(memory, "none").wait_for_phase(0, 1, timeout=0)
