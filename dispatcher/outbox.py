"""Outbox: what several owners send, a batch's runs say, put on the broker together; who was refused knows it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dispatcher.exceptions import OperationalError, SendError

if TYPE_CHECKING:
    from dispatcher.packing import Call, Packed
    from dispatcher.sending import Sender

logger = logging.getLogger("dispatcher.producer")

#: So many messages are kept at most before they are sent.
_MOST: Final = 1000


class Outbox:
    """Collects messages for one owner after the other, then sends them all; not for several threads.

    What is wrong with a message shows when it is put in. What the broker refuses is known after `send`, by owner, as is
    what was noted by `refuse`; what an owner has to do `afterwards` is done unless anything of it was refused.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        #: whose messages are put in
        self.owner: Hashable = None
        #: why messages of owners were not accepted
        self.refused: dict[Hashable, BaseException] = {}
        self._wrong: dict[Hashable, BaseException] = {}
        self._packs: list[tuple[Hashable, Packed]] = []
        self._kept = 0
        self._afterwards: list[tuple[Hashable, Callable[[], Any]]] = []

    def put(self, calls: Sequence[Call]) -> None:
        """Pack calls of the present owner, to be sent later; many are sent at once.

        Raises whatever `Sender.send` does, of the broker as far as it was asked for this owner's messages.
        """
        self._packs.append((self.owner, self._sender.pack(calls)))
        self._kept += len(calls)
        if self._kept >= _MOST:
            self._send_kept()
            if self.owner in self.refused:
                raise self.refused[self.owner]

    def refuse(self, error: BaseException) -> None:
        """Note why not all of the present owner was put in; what the broker refuses of it counts for more."""
        self._wrong[self.owner] = error

    def afterwards(self, act: Callable[[], Any]) -> None:
        """Do something for the present owner once its messages are on the broker."""
        self._afterwards.append((self.owner, act))

    def send(self) -> None:
        """Send what is left and do what comes afterwards; `refused` says for whom either failed."""
        self._send_kept()
        self.refused = self._wrong | self.refused
        for owner, act in self._afterwards:
            if owner not in self.refused:
                try:
                    act()
                except Exception as error:  # noqa: BLE001 - the owner's, which is told
                    self.refused[owner] = error
        self._afterwards.clear()

    def _send_kept(self) -> None:
        packs, self._packs, self._kept = self._packs, [], 0
        if not packs:
            return
        try:
            self._sender.send_packed([pack for _, pack in packs])
        except OperationalError as error:
            self._refuse(packs, error)
        except Exception as error:
            if len(packs) == 1:
                self.refused.setdefault(packs[0][0], error)
                return
            logger.exception("messages cannot be sent together, each goes alone")
            for each in packs:
                self._packs = [each]
                self._send_kept()

    def _refuse(self, packs: Sequence[tuple[Hashable, Packed]], error: OperationalError) -> None:
        failures: Mapping[str, str] | None = error.failures if isinstance(error, SendError) else None
        for owner, pack in packs:
            if failures is None:
                self.refused.setdefault(owner, error)
            elif lost := {each.id: failures[each.id] for each in pack.outgoing if each.id in failures}:
                first = next(iter(lost.items()))
                text = f"the message of task {first[0]} was not accepted: {first[1]}"
                self.refused.setdefault(owner, SendError(text, lost))
