"""Settings of the service: each can be given as an environment variable ``MEMORY_SERVICE_<NAME>``.

docs/service.md lists them; a test fails when one is missing there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from memory_format.api.problems import words_of
from memory_service.logs import LogFormat

MIB = 1024 * 1024

_HOST: Final = re.compile(r"\*|[a-z0-9._-]+|[0-9a-f:.]+")
_ORIGIN: Final = re.compile(r"\*|[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:[0-9]+)?|[a-z]+://\[[0-9a-f:.]+\](:[0-9]+)?")

Names = Annotated[tuple[str, ...], NoDecode]
"""In the environment with commas between them."""

_PREFIX: Final = "MEMORY_SERVICE_"
_MOST: Final = 1e9
"""Of seconds, hours and the like: 30 years. With what is infinite no clock can be set."""


def words_of_settings(error: ValidationError) -> str:
    """What is wrong with settings, each by the name that it has in the environment."""
    return "bad settings: " + "; ".join(map(_said, error.errors()))


def _said(problem: ErrorDetails) -> str:
    if problem["type"] == "missing":
        return f"a directory is needed, as --data DIR or as {_PREFIX}DATA"
    name = "_".join(map(str, problem["loc"]))
    return f"{name} ({_PREFIX}{name.upper()}): {words_of(problem)}" if name else words_of(problem)


def unknown_settings(environment: Iterable[str]) -> list[str]:
    """Names in the environment that look like settings and are none. What is misspelt would set no limit, and say
    nothing."""
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields}
    # Of ``memory-service migrate``.
    known |= {f"{_PREFIX}{side}_{what}" for side in ("FROM", "TO") for what in ("INDEX", "SEGMENTS")}
    return sorted(name for name in environment if name.upper().startswith(_PREFIX) and name.upper() not in known)


class Settings(BaseSettings):
    """What a service needs to know. Only ``data`` has no default."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True)

    data: Path = Field(description="Directory of the store; made when it does not exist.")
    keys: Path | None = Field(
        None,
        description="Directory of the file of keys; without it, that of the store. Replicas need the same one.",
    )
    index: SecretStr | None = Field(
        None,
        description="Database of the index, `postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE`; without it, a "
        "file in the directory. The environment hides a password better than the command line.",
    )
    segments: str | None = Field(
        None,
        description="Object store of the segments, `s3://BUCKET/PREFIX`; without it, files in the directory. Keys, "
        "region and endpoint come from the environment: `AWS_ACCESS_KEY_ID`, `AWS_REGION`, `AWS_ENDPOINT_URL`.",
    )
    cache: Path | None = Field(
        None,
        description="Directory for copies of segments in an object store; without it, `cache` in that of the store.",
    )
    cache_bytes: int = Field(8 * 1024 * MIB, ge=MIB, description="Most bytes of those copies.")
    replicas: bool = Field(
        False,
        description="Share index and object store with other replicas of the service; both must be named. Each has a "
        "directory of its own.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8765, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    uds: Path | None = Field(
        None,
        description="Unix socket to listen on too, for HTTP and for clients of this machine that read the files by "
        "themselves; made with mode 0600.",
    )
    uds_only: bool = Field(False, description="Listen on the Unix socket and on no port.")
    trust_network: bool = Field(
        False,
        description="Allow an address that other machines can reach, although the store has no key: whoever "
        "reaches the port can read and delete everything. Once there are keys, they are asked for all the same.",
    )
    allowed_hosts: Names = Field(
        (),
        description="Names and addresses that the service answers to, beside those of loopback and the one it "
        "listens on, with commas between them; `*` for any.",
    )
    allowed_origins: Names = Field(
        (),
        description="Origins, as `https://example.org`, whose pages may call the service; `*` for any.",
    )
    max_body_bytes: int = Field(256 * MIB, ge=1, description="Largest body of a push.")
    max_import_bytes: int = Field(2**40, ge=1, description="Largest exported buffer that is imported.")
    max_json_bytes: int = Field(4 * MIB, ge=1, description="Largest body of any other request.")
    max_response_bytes: int = Field(
        256 * MIB,
        ge=1,
        description="Most bytes of records in one answer; queries are cut into pages, samples refused.",
    )
    max_batch_records: int = Field(10_000, ge=1, le=100_000, description="Most records in one push.")
    max_pushes: int = Field(
        64, ge=1, description="Pushes being written at once; who comes beyond is told to come again (429)."
    )
    max_pending_bytes: int = Field(
        1024 * MIB, ge=1, description="Bytes of bodies of pushes held at once; beyond it, the same."
    )
    decode_payloads: bool = Field(
        True,
        description="Decode each payload once when it is pushed or imported, and refuse what cannot be decoded. "
        "`false` trusts everybody who pushes, and a key made with `--trusted` whoever has it: what is damaged is found "
        "by who draws it.",
    )
    max_imports: int = Field(2, ge=1, description="Imports being taken over at once; beyond it, the same.")
    max_pictures: int = Field(64, ge=1, description="Pictures asked for at once; beyond it, the same.")
    picture_threads: int = Field(2, ge=1, description="Pictures drawn at once; each takes up to 100 MiB.")
    body_seconds: float = Field(
        30.0, gt=0, le=_MOST, description="How far a request's body may fall behind the least rate, or pause (408)."
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="Connections at once, fewer where the limit of open files is lower. Beyond it the one that has "
        "been idle for the longest is closed; where all are in use, the next is told to come again (429).",
    )
    key_connections: int = Field(
        256,
        ge=1,
        description="Connections at once of one key. Beyond it an idle one of the same key is closed; where all are in "
        "use, the next is told to come again (429 `connections_exceeded`).",
    )
    key_requests: float = Field(
        2000.0,
        ge=1,
        le=_MOST,
        description="Requests a second of one key, and as many at once; who comes faster is told to come again (429 "
        "`rate_exceeded`).",
    )
    head_bytes: int = Field(128 * 1024, ge=1024, description="Largest head of a request, its address included (431).")
    head_fields: int = Field(100, ge=8, description="Most fields in it (431).")
    head_seconds: float = Field(10.0, gt=0, le=_MOST, description="For how long a request's head is waited for (408).")
    keep_alive_seconds: int = Field(30, ge=1, le=10**9, description="For how long an idle connection is kept.")
    write_seconds: float = Field(
        60.0,
        gt=0,
        le=_MOST,
        description="How long an answer may wait for its client to take more of it before it is cut off.",
    )
    least_rate: int = Field(
        4096, ge=1, description="Bytes a second at which a client must send a body, and take an answer."
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        le=_MOST,
        description="How long a sample or an export under way keeps what it reads while its client takes nothing of "
        "it. Where a change needs the room, it ends at once.",
    )
    stop_seconds: float = Field(
        5.0,
        ge=0,
        le=_MOST,
        description="How long requests under way are waited for when the service ends; then they are cut.",
    )
    total_budget_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes that the budgets of all buffers may come to together, each at the most it may grow to; "
        "without it, what clients ask for.",
    )
    learner_bytes: int | None = Field(
        None,
        ge=1,
        description="Most bytes that the live records of one `learner_id` may be charged in all buffers together; "
        "without it, what budgets have room for.",
    )
    run_bytes: int = Field(
        64 * MIB, ge=0, description="Most bytes of all reports of runs together; each has at most 1 MiB."
    )
    segment_bytes: int = Field(
        16 * MIB,
        ge=1,
        le=64 * MIB,
        description="Body bytes after which a segment file is full; less where the disk limit is tight.",
    )
    least_free_bytes: int = Field(
        64 * MIB, ge=0, description="Bytes that are free on the disk, or the service says that it is not ready."
    )
    open_segments: int = Field(256, ge=1, description="Segment files kept open for reading.")
    idempotency_hours: float = Field(
        24.0, gt=0, le=_MOST, description="How long the answer to a push with a key is kept."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe message logged.")
    log_format: LogFormat = Field("text", description="`text`, or `json`: an object a line.")
    access_log: bool = Field(False, description="Log a line for every request.")

    @model_validator(mode="after")
    def _listens_somewhere(self) -> Self:
        if self.uds_only and self.uds is None:
            raise ValueError("uds_only needs a socket to listen on: name one as uds")
        return self

    @model_validator(mode="after")
    def _has_what_is_copied(self) -> Self:
        given = sorted(self.model_fields_set & {"cache", "cache_bytes"})
        if given and self.segments is None:
            raise ValueError(f"{given[0]} is for copies of segments in an object store: name one as segments")
        return self

    @model_validator(mode="after")
    def _can_be_shared(self) -> Self:
        if not self.replicas:
            return self
        if self.index is None or self.segments is None:
            raise ValueError("replicas share a database and an object store: name them as index and segments")
        if self.uds is not None:
            raise ValueError("uds is for a service that is alone: it lends files of one machine")
        return self

    @field_validator("allowed_hosts", "allowed_origins", mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = tuple(part.strip().lower() for part in given.split(",") if part.strip())
        return given

    @field_validator("data", "keys", "cache", "uds", mode="before")
    @classmethod
    def _are_named(cls, given: Any) -> Any:
        # An empty path is the working directory: a variable of a shell that was not set, and never what was meant.
        if given == "":
            raise ValueError("it is empty, and a path is needed")
        return given

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for host in given:
            if not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is no name or address; a port or scheme does not belong to it")
        return given

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for origin in given:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; one is https://example.org, without a path")
        return given
