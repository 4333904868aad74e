"""Learners of one buffer that go through their phases in step."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

from client import _listing
from client._address import buffer_path
from client._named import Named
from client._params import whole
from client.errors import PhaseTimeoutError
from memory_format.api.phases import LearnerPhase, PhaseList
from memory_format.arguments import is_number

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.0
_LONGEST: Final = 1e9


class InStep(Named):
    """A buffer whose learners say in which phase they are, and wait for each other."""

    def enter_phase(self, phase: int, *, learner_id: str, ended: bool = False) -> LearnerPhase:
        """Say that a learner is in a phase from now on, for all who wait for it. It may go back to an earlier one.

        Args:
            ended: it has gone through all its phases; nobody waits for it any more.

        Raises:
            ForbiddenError: the key is for another learner.
            BudgetError: ``disk_limit_exceeded``: the buffer has no room for another learner.
            FormatError: the phase is none (0..65,535), or the id.
        """
        entry = {"phase": phase, "ended": ended}
        return self._ask(LearnerPhase, "PUT", "phases", learner_id, json=entry)

    def phases(self) -> dict[str, LearnerPhase]:
        """Learner id -> the phase that it has said to be in, by id."""
        path = buffer_path(self.name, "phases")
        listed = _listing.listed(self.client.session, path, PhaseList, lambda page: page.learners)
        return {learner.learner_id: learner for learner in listed}

    def leave_phases(self, learner_id: str) -> None:
        """Forget in which phase a learner is; its exemplars stay. Nothing happens where it has not said so.

        Raises:
            ForbiddenError: the key is for another learner.
        """
        self.client.session.request("DELETE", buffer_path(self.name, "phases", learner_id))

    def wait_for_phase(self, phase: int, learners: int | Sequence[str], *, timeout: float) -> dict[str, LearnerPhase]:
        """Wait until learners are in a phase or in a later one, or have ended.

        The service is asked again and again, ever more rarely, every two seconds in the end.

        Args:
            learners: the ids of those to wait for, or how many it takes, whichever they are.
            timeout: seconds to wait at most. Each time the service is asked has its own bounds (:class:`Timeout`).

        Returns:
            as :meth:`phases`.

        Raises:
            PhaseTimeoutError: not all are there in time. It says who is missing.
            ServiceError, ExemplarMemoryError: as any request, the service is not there or the key not for it.
        """
        phase = whole("phase", phase, 0, 65_535)
        if not is_number(timeout, 0, _LONGEST):
            raise ValueError(f"timeout must be seconds, 0..{_LONGEST:g}, got {timeout!r:.100}")
        if isinstance(learners, str) or not isinstance(learners, Sequence):
            learners = whole("learners", learners, 1)
        number = learners if isinstance(learners, int) else len(set(learners))
        end, wait = time.monotonic() + timeout, _FIRST_WAIT
        while True:
            found = self.phases()
            named = list(found) if isinstance(learners, int) else list(dict.fromkeys(learners))
            missing = [id_ for id_ in named if id_ not in found or not found[id_].has_reached(phase)]
            num_there = len(named) - len(missing)
            if num_there >= number:
                return found
            left = end - time.monotonic()
            if left <= 0:
                behind = f"; behind: {', '.join(missing[:20])}" if missing else ""
                raise PhaseTimeoutError(
                    f"phase {phase} of buffer {self.name}: {num_there} of {number} learners are in it after "
                    f"{timeout:g} s{behind}",
                    missing,
                    found,
                )
            # Those who wait for the same do not ask in the same moment.
            self.client.session.transport.addresses.wait(min(left, wait * random.uniform(0.5, 1.0)))
            wait = min(_LONGEST_WAIT, 1.5 * wait)
