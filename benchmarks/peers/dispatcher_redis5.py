"""The library of this repository, in the environment of the peers that need an older redis-py."""

from __future__ import annotations

from typing import ClassVar, Final

from benchmarks.peers.dispatcher import DispatcherPeer


class DispatcherRedis5(DispatcherPeer):
    """The same app and worker: only what they import differs."""

    name: ClassVar[str] = "dispatcher_redis5"
    settings: ClassVar[str] = "as dispatcher, with the redis-py that SAQ and arq ask for"


PEER: Final = DispatcherRedis5()
