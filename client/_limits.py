"""How long a call may take, and how often it is tried."""

from __future__ import annotations

from dataclasses import dataclass

from memory_format.arguments import is_number, is_whole

_LONGEST = 1e9


@dataclass(frozen=True)
class Timeout:
    """Seconds to wait.

    Args:
        connect: for a connection.
        read: for the next bytes of an answer, and for the service to take the next bytes of a body.
        total: for one call with all its retries, however slowly its answer comes. A buffer that goes to a file or
            comes from one takes as long as it takes: there it bounds each MiB.
    """

    connect: float = 5.0
    read: float = 60.0
    total: float = 120.0

    def __post_init__(self) -> None:
        if not all(is_number(value, 0, _LONGEST) and value for value in (self.connect, self.read, self.total)):
            raise ValueError(f"timeouts must be positive seconds, at most {_LONGEST:g}, got {self}")


@dataclass(frozen=True)
class Retries:
    """How often a safe request is tried, and the waits between: 8 to 16 seconds in all, which a restart of the
    service fits into.

    Args:
        tries: the most requests that one call makes; 1 = no retries.
        first_wait: seconds before the second try; doubled for each one after. The wait is drawn between half
            of it and all of it, so that learners which lost the service together do not return together.
        max_wait: the longest of these waits. A longer ``Retry-After`` is honoured all the same.
    """

    tries: int = 8
    first_wait: float = 0.2
    max_wait: float = 5.0

    def __post_init__(self) -> None:
        waits = (self.first_wait, self.max_wait)
        if not is_whole(self.tries, 1, 2**31) or not all(is_number(wait, 0, _LONGEST) for wait in waits):
            raise ValueError(f"tries must be at least 1 and waits not negative, got {self}")
