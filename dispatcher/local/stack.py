"""The functions of a deployed app as they run here: their environments, and the mappings that feed them."""

from __future__ import annotations

import threading
from typing import Any

from dispatcher.local.console import Console
from dispatcher.local.deploying import Deployed
from dispatcher.local.functions import Environments, MappedFunction, Place
from dispatcher.local.mapping import EventSourceMapping


class Stack:
    """Runs functions until closed; `update` brings it to what was deployed last.

    ``sqs`` is the client of the endpoint.
    """

    def __init__(self, sqs: Any, place: Place, console: Console) -> None:
        self._sqs = sqs
        self._place = place
        self._console = console
        self._mappings: dict[str, EventSourceMapping] = {}

    def update(self, deployed: Deployed) -> None:
        """Run what is deployed now; invocations that are under way finish with the code they began with."""
        wanted = {function.name: function for function in deployed.functions}
        for name in self._mappings.keys() - wanted.keys():
            self._dismiss(self._mappings.pop(name))
        for name, function in wanted.items():
            running = self._mappings.get(name)
            if running is None or not _fed_alike(running.function, function):
                if running is not None:
                    self._dismiss(running)
                self._mappings[name] = self._start(function)
            else:
                running.environments.renew(self._place.function(function))
                running.resume()

    def pause(self) -> None:
        """Run no more batches until the next `update`; messages wait in their queues."""
        for mapping in self._mappings.values():
            mapping.pause()

    def close(self) -> None:
        """End everything, invocations that are under way included."""
        for mapping in self._mappings.values():
            mapping.stop()
        for mapping in self._mappings.values():
            mapping.environments.close()
        self._mappings.clear()

    def _start(self, function: MappedFunction) -> EventSourceMapping:
        name, owner = function.name, self._place.owner
        environments = Environments(self._place.function(function), owner, self._console.output(name))
        mapping = EventSourceMapping(
            self._sqs,
            function,
            environments,
            region=self._place.region,
            failed=self._console.failed(name),
            complain=lambda text: self._console.say(text, "ERROR"),
        )
        mapping.start()
        return mapping

    def _dismiss(self, mapping: EventSourceMapping) -> None:
        """Let a mapping finish what it has begun, beside everything else."""
        mapping.stop()

        def finish() -> None:
            mapping.join()
            mapping.environments.close()

        threading.Thread(target=finish, name=f"{mapping.function.name}-leaving", daemon=True).start()


def _fed_alike(one: MappedFunction, other: MappedFunction) -> bool:
    return _feed(one) == _feed(other)


def _feed(function: MappedFunction) -> tuple[object, ...]:
    return function.queue_url, function.batch_size, function.window, function.concurrency
