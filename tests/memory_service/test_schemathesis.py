"""The service against its own OpenAPI document: requests that fit it and that do not, made up by schemathesis.

All of its checks are on but one, whose place a stricter reading of the same takes: see ``schemathesis_hooks``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memory_service.store.keys import KeyFile
from tests.memory_service.helpers import Server, make_exemplar, push, put_buffer

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")
"""Requests of each phase and route, beside those at the ends of every range, which are always the same."""


FUZZ_SECONDS = os.environ.get("SCHEMATHESIS_FUZZ_SECONDS", "")
"""For how long requests are chained that each take something of earlier answers; without it they are not."""

ALL = ("--checks", "all", "--continue-on-failure", "--exclude-checks")
RUN = ("run", *ALL, "positive_data_acceptance", "--seed", "0", "--max-examples", EXAMPLES)
# What is taken of an answer need not fit. Version 4.32 adds to its record of requests in `ignored_auth` while it goes
# through it, and ends.
NOT_IN_CHAINS = "positive_data_acceptance,refused_for_what_no_schema_says,ignored_auth"
FUZZ = ("fuzz", *ALL, NOT_IN_CHAINS, "--max-time", FUZZ_SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(RUN, id="run"),
        pytest.param(FUZZ, id="fuzz", marks=pytest.mark.skipif(not FUZZ_SECONDS, reason="make nightly does it")),
    ],
)
def test_the_service_does_what_its_document_says(how: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text("[phases.coverage]\ngenerate-duplicate-query-parameters = true\n")
    _, key = KeyFile(tmp_path / "store").make("admin", 0.0)
    shown = f"Authorization: Bearer {key}"
    with Server(tmp_path / "store") as server, server.client() as client:
        client.headers["Authorization"] = f"Bearer {key}"
        put_buffer(client)
        push(client, [make_exemplar(number % 2, number) for number in range(5)])
        client.put("/v1/buffers/b/snapshots/s")
        run = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)),
                *(*how, f"{server.url}/openapi.json", "--header", shown),
                # Whether an id exists is chance: most requests are for none.
                *("--warnings", "off"),
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "SCHEMATHESIS_HOOKS": "tests.memory_service.schemathesis_hooks",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(run.stdout)
        assert run.returncode == 0, run.stdout[-20_000:]
        assert client.get("/readyz").status_code == 200
        assert server.stop()[0] == 0
