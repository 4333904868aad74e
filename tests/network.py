"""A network of a PostgreSQL server's own, where packets between it and a replica are lost in silence.

The server is in a network namespace, and a pair of virtual interfaces leads there from each replica. They have
link-local addresses, so nothing else on the machine is touched. It ends with what has it open: this process,
and the server.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

_NEW_NETWORK = 0x40000000
_SERVER, _REPLICA = "fe80::1:{}", "fe80::2:{}"


class NoNetworkError(RuntimeError):
    """This machine, or this user, cannot have such a network; the message says why."""


class Network:
    """A namespace, held open by this process until :meth:`remove`.

    Raises:
        NoNetworkError: it cannot be made.
    """

    def __init__(self) -> None:
        for program in ("ip", "nft", "nsenter", "ss"):
            if shutil.which(program) is None:
                raise NoNetworkError(f"there is no `{program}`: apt-get install iproute2 nftables util-linux")
        self._descriptor = _open_new()
        self.file = Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def inside(self, *command: str, stdin: str = "") -> None:
        """Run something there."""
        run("nsenter", f"--net={self.file}", *command, stdin=stdin)

    def remove(self) -> None:
        """Leave nothing behind, unless a process runs there."""
        os.close(self._descriptor)


def run(*command: str, stdin: str = "") -> None:
    """Raises ``NoNetworkError``: it failed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworkError(f"{' '.join(command)}: {done.stderr.strip()}")


def _open_new() -> int:
    """The descriptor of a new namespace."""
    found: list[int] = []
    failed: list[int] = []

    def make() -> None:
        # Of this thread alone, which ends.
        library = ctypes.CDLL(None, use_errno=True)
        if library.unshare(_NEW_NETWORK):
            failed.append(ctypes.get_errno())
        else:
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise NoNetworkError(f"a network namespace cannot be made: {os.strerror(failed[0])}")
    return found[0]


class Wire:
    """Between a replica and the server in a network; what :class:`tests.links.Link` is for a socket.

    Args:
        number: of the replica, less than ten.

    Raises:
        NoNetworkError: it cannot be laid.
    """

    lost = "packets lost"

    def __init__(self, network: Network, number: int) -> None:
        self._network = network
        # At most 15 characters.
        self._near, self._far = f"em{os.getpid()}-{number}", f"wire{number}"
        self._server = _SERVER.format(number)
        self.host = f"{self._server}%{self._near}"
        run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", str(network.file))
        network.inside("ip", "-batch", "-", stdin=_up(self._far, self._server))
        run("ip", "-batch", "-", stdin=_up(self._near, _REPLICA.format(number)))
        network.inside("nft", "-f", "-", stdin=_RULES.format(name=self._far))

    def pass_all(self) -> None:
        """What is sent again from here on arrives, also from who has ended since."""
        self._network.inside("nft", "flush", "table", "inet", self._far)

    def hold(self, *, there: bool = True, back: bool = True) -> None:
        """Lose what is sent to the server, or what it sends."""
        ways = {"there": there, "back": back}
        rules = [f'add rule inet {self._far} {way} meta {_SIDE[way]} "{self._far}" drop' for way in ways if ways[way]]
        self._network.inside("nft", "-f", "-", stdin="\n".join(rules))

    def cut(self) -> None:
        """The server knows of no connection any more; a replica hears of it with the next packet that arrives."""
        self._network.inside("ss", "--kill", "--no-header", "src", f"[{self._server}]")

    def remove(self) -> None:
        """Leave nothing behind."""
        run("ip", "link", "delete", self._near)


_SIDE = {"there": "iifname", "back": "oifname"}
_RULES = """
table inet {name} {{
  chain there {{ type filter hook input priority 0; }}
  chain back {{ type filter hook output priority 0; }}
}}
"""


def _up(device: str, address: str) -> str:
    """Without the addresses that it would give itself, and without asking whether anybody has this one."""
    return f"link set {device} addrgenmode none\naddress add {address}/64 dev {device} nodad\nlink set {device} up\n"
