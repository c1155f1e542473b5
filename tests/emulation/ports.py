"""Free ports on loopback."""

import socket


def free_port() -> int:
    """A port that nothing listens on now; another process may still take it first, so be ready to ask again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
