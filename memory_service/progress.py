"""A bar on a terminal, for what takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_SECONDS: Final = 2.0
"""What is done by then shows none."""


@contextmanager
def bar(what: str, unit: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Gives what is told of the work: how much is done, how much there is to do if that is known, and what is looked
    at. The bar is on stderr, where that is a terminal, and goes away at the end.

    Args:
        unit: of the numbers: ``B``, or a word.
    """
    from tqdm import tqdm

    with tqdm(
        desc=what, unit=unit, unit_scale=unit == "B", delay=_SECONDS, leave=False, disable=None, dynamic_ncols=True
    ) as shown:

        def tell(done: int, total: int | None, _name: str = "") -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield tell
