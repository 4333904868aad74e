"""The command line: ``memory-service serve --data DIR``, and what is done to a store that nobody serves."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import shlex
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import pyarrow as pa
import uvicorn
from pydantic import ValidationError

from memory_format import ExemplarMemoryError
from memory_format.api.answers import LocalSocket
from memory_service.http.admission import SWITCH_SECONDS
from memory_service.http.app import create_app, open_store
from memory_service.http.connections import Connections, connections_that_fit
from memory_service.http.guard import is_loopback
from memory_service.http.local import LocalDraws, open_listener, remove_socket
from memory_service.key_commands import add_key_commands, keys_command
from memory_service.logs import logging_to_stderr
from memory_service.offline import OFFLINE, add_offline_commands
from memory_service.settings import Settings, unknown_settings, words_of_settings
from memory_service.store.keys import KeyFile

logger = logging.getLogger(__name__)

_DECAY_MS = 1000
_CUT_SECONDS = 2
"""For what answers a connection to notice that it was cut at the end."""
_TICKS_BETWEEN_CHECKS = 5
"""Of uvicorn's, a tenth of a second each."""
_OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""While nobody waits for an answer."""
_MOST_OBJECTS = 1_000_000
"""Whoever waits: some 100 MB, if all of them are garbage."""
EXIT_REFUSED = 2
"""Exit status where nothing was done: bad settings, or a store that is locked or damaged."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = vars(_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        if command == "serve":
            return _serve(options)
        if command == "keys":
            return keys_command(**options)
        return OFFLINE[command](**options)
    except ValidationError as error:
        return _refuse(words_of_settings(error))
    except (ExemplarMemoryError, OSError) as error:
        wanted = ""
        if isinstance(error, ExemplarMemoryError) and error.code == "store_locked" and command != "serve":
            wanted = ": stop it first, or ask it over HTTP" if command in ("export", "import") else ": stop it first"
        return _refuse(f"{error}{wanted}")


def _serve(given: dict[str, Any]) -> int:
    shown = given.pop("open", False)
    if unknown := unknown_settings(os.environ):
        return _refuse(f"bad settings: {', '.join(unknown)} in the environment is none; docs/service.md lists them")
    settings = Settings(**given)
    keys = KeyFile(settings.keys or settings.data)
    is_near = settings.uds_only or is_loopback(settings.host)
    if not (is_near or settings.trust_network or keys.any_good(time.time())):
        return _refuse(
            f"--host {settings.host} can be reached by other machines, and the store has no key: whoever reaches it "
            f"could read and delete everything. Make one, `memory-service keys make --role admin --data "
            f"{shlex.quote(str(settings.keys or settings.data))}`, or say that this is wanted: --trust-network"
        )
    # Now, and not with the first request.
    keys.current()
    return serve(settings, shown=shown)


def serve(settings: Settings, *, shown: bool = False) -> int:
    """Serve until SIGTERM or SIGINT.

    Args:
        shown: open its pages in a browser once it is ready.

    Raises:
        StorageError: the store cannot be opened.
        OSError: the address cannot be bound.
    """
    with (
        logging_to_stderr(settings.log_level.upper(), settings.log_format),
        open_store(settings) as store,
        _listening(settings) as (listeners, address),
    ):
        most = connections_that_fit(settings.max_connections, settings.open_segments)
        connections = Connections(settings, most)
        app = create_app(settings, store)
        connections.places = app.state.access.places
        if settings.uds is not None:
            connections.draws = LocalDraws(store, app.state.admission, app.state.access, settings)
            app.state.local = LocalSocket(os.path.abspath(settings.uds), connections.draws.instance)
        config = uvicorn.Config(
            app,
            http=connections.protocol,
            ws="none",
            timeout_keep_alive=settings.keep_alive_seconds,
            # The root logger is set up above, on stderr: stdout carries the one line below and nothing else.
            log_config=None,
            # memory_service.http.telemetry logs requests, with their ids.
            access_log=False,
            timeout_graceful_shutdown=math.ceil(settings.stop_seconds) + _CUT_SECONDS,
        )
        _keep_answers_memory()
        _collect_seldom()
        sys.setswitchinterval(SWITCH_SECONDS)
        ready_line = f"memory-service listening on {address} (data: {settings.data})"
        server = _Server(config, connections, ready_line, address if shown else None)

        def stop(_number: int, _frame: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn raises the signal once more after its shutdown, to whoever handled it before: this handler
        # makes that the end of a clean run, and covers the moment before uvicorn takes over.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        server.run(sockets=listeners)
    return 0


def _keep_answers_memory() -> None:
    """Let the memory of one answer serve for the next.

    Answers are megabytes. Arrow's usual allocator gives them back to the system within milliseconds, and has them
    mapped in again page by page, which takes as long as reading the records does (docs/decisions/0010).
    """
    try:
        pool = pa.jemalloc_memory_pool()
    except NotImplementedError:  # not on every platform
        return
    pa.jemalloc_set_decay_ms(_DECAY_MS)
    pa.set_memory_pool(pool)


def _collect_seldom() -> None:
    """Let Python look for garbage in cycles while nobody waits for an answer.

    Reference counts free nearly all there is. A large push holds ten thousands of small objects: to look through them
    in the middle of it stops everybody for 10 ms and more (docs/decisions/0016).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MOST_OBJECTS)


class _Server(uvicorn.Server):
    """Says when it is ready, and looks over its connections."""

    def __init__(self, config: uvicorn.Config, connections: Connections, ready_line: str, shown: str | None) -> None:
        super().__init__(config)
        self._connections = connections
        self._ready_line = ready_line
        self._shown = shown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            print(self._ready_line, flush=True)
            if self._shown is not None:
                # In a thread: some browsers stay until they are closed.
                threading.Thread(target=_show, args=(self._shown,), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        connections = self._connections
        cutting = asyncio.get_running_loop().call_later(connections.limits.stop_seconds, connections.cut_all)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_BETWEEN_CHECKS == 0:
            self._connections.check(asyncio.get_running_loop().time())
        if not self.server_state.tasks and gc.get_count()[0] > _OBJECTS_BETWEEN_COLLECTIONS:
            gc.collect()
        return await super().on_tick(counter)


def _show(address: str) -> None:
    if not webbrowser.open(address):
        logger.warning("no browser was found; its pages are at %s", address)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memory-service", description="A shared, byte-budgeted memory of masked exemplars."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    options: dict[str, Any] = {"argument_default": argparse.SUPPRESS}
    command = commands.add_parser(
        "serve",
        help="serve a store over HTTP",
        epilog="Every setting can be given in the environment as MEMORY_SERVICE_<NAME>: see docs/service.md.",
        **options,
    )
    command.add_argument("--data", help="directory of the store; made when it does not exist")
    command.add_argument(
        "--index",
        metavar="URL",
        help="database of the index, postgresql+psycopg://USER@HOST/DATABASE; without it, a file in the directory",
    )
    command.add_argument(
        "--segments",
        metavar="URL",
        help="object store of the segments, s3://BUCKET/PREFIX; without it, files in the directory",
    )
    command.add_argument("--cache", metavar="DIR", help="directory for copies of segments in an object store")
    command.add_argument("--cache-bytes", type=int, metavar="N", help="most bytes of those copies (8 GiB)")
    command.add_argument(
        "--replicas", action="store_true", help="share index and object store with other replicas of the service"
    )
    command.add_argument("--host", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", type=int, help="port to listen on, 0 for a free one (8765)")
    command.add_argument("--uds", help="Unix socket to listen on too: draws on this machine are faster over it")
    command.add_argument("--uds-only", action="store_true", help="listen on no port")
    command.add_argument(
        "--trust-network",
        action="store_true",
        help="allow an address that other machines can reach, although the store has no key",
    )
    command.add_argument("--open", action="store_true", help="open its pages in a browser")
    command.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    command.add_argument("--log-format", choices=["text", "json"])
    command.add_argument("--access-log", action="store_true", help="log a line for every request")
    add_offline_commands(commands)
    add_key_commands(commands)
    return parser


@contextmanager
def _listening(settings: Settings) -> Iterator[tuple[list[socket.socket], str]]:
    """The sockets that are listened on, and the address of the first.

    Raises:
        OSError: one cannot be bound.
    """
    with ExitStack() as stack:
        listeners: list[socket.socket] = []
        address = ""
        if not settings.uds_only:
            listeners.append(stack.enter_context(_bind(settings.host, settings.port)))
            host, port = listeners[0].getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if settings.uds is not None:
            listeners.append(stack.enter_context(open_listener(settings.uds)))
            stack.callback(remove_socket, settings.uds, os.stat(settings.uds).st_ino)
            address = address or f"unix://{os.path.abspath(settings.uds)}"
        yield listeners, address


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio sees TCP and switches Nagle's algorithm off: with it, the answer's
    # body waits 40 ms for the acknowledgement of its headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def _refuse(reason: str) -> int:
    print(f"memory-service: {reason}", file=sys.stderr)
    return EXIT_REFUSED
