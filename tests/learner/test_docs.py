"""docs/learner.md names every data set that there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.data.load import LISTINGS

DOC = (Path(__file__).parents[2] / "docs" / "learner.md").read_text()


@pytest.mark.parametrize("name", ["emoji", *LISTINGS])
def test_every_data_set_is_described(name: str) -> None:
    assert f"| `{name}` |" in DOC
