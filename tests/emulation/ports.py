"""Free ports on loopback."""

import contextlib
import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 12_000
_ATTEMPTS = 100


def free_port() -> int:
    """A port that nothing listens on now; another process may still take it first, so be ready to ask again.

    Not one that the system gives to outgoing connections: of those any client may take the port of a server that is
    just restarted, and a client that tries a server that is away may get through to itself.
    """
    for _ in range(_ATTEMPTS):
        port = random.randrange(_FIRST, _first_ephemeral())
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"no free port between {_FIRST} and {_first_ephemeral()} in {_ATTEMPTS} attempts")


def _first_ephemeral() -> int:
    """Where the ports of outgoing connections begin: 32768 on Linux, 49152 elsewhere, unless configured otherwise."""
    try:
        return max(int(_EPHEMERAL.read_text().split()[0]), _FIRST + _ATTEMPTS)
    except OSError:
        return 49_152
