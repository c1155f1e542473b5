"""Which queue of the app an event comes from: AWS names it by its ARN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dispatcher.brokers.sqs_queues import Queues, is_lost
from dispatcher.security import home_queue


class Sources:
    """Turns queue ARNs into queue names.

    ``names`` are the queues that the app knows of, ``url_of`` their configured URLs; ``urls`` are URLs whose queue's
    name can only be guessed; ``local_name`` says what a queue is called here by its name at SQS.
    """

    def __init__(
        self,
        names: Iterable[str],
        url_of: Callable[[str], str | None],
        urls: Mapping[str, str],
        local_name: Callable[[str], str],
    ) -> None:
        configured = {name: url for name in names if (url := url_of(name))}
        self._by_place = {_place_of_url(url): name for name, url in (*urls.items(), *configured.items())}
        self._local_name = local_name
        self._known: dict[str, str] = {}

    def queue_of(self, arn: str) -> str:
        """Return the name of the queue with this ARN."""
        name = self._known.get(arn)
        if name is None:
            name = self._known[arn] = self._find(arn)
        return name

    def _find(self, arn: str) -> str:
        place, _, sqs_name = arn.rpartition(":")
        account = place.rpartition(":")[2]
        name = self._by_place.get(f"{account}/{sqs_name}")
        if name is None and (home := home_queue(sqs_name)) != sqs_name:
            # The lost and dead letters of a queue whose URL is known, by their names.
            name = self._by_place.get(f"{account}/{home}") or self._local_name(home)
            return Queues.lost(name) if is_lost(sqs_name) else Queues.dead(name)
        return name or self._local_name(sqs_name)


def _place_of_url(url: str) -> str:
    """Return ``account/name`` of a queue's URL, which is all that its ARN has in common with it."""
    return "/".join(url.rstrip("/").rsplit("/", 2)[-2:])


def names_of(app: Any) -> list[str]:
    """Return the queues that an app names in its settings and tasks; routers that are functions cannot be asked."""
    conf = app.conf
    names = {conf.task_default_queue, *(conf.task_queues or {})}
    names.update(task.queue for task in app.tasks.values() if task.queue)
    routes = conf.task_routes
    for table in routes if isinstance(routes, list | tuple) else [routes]:
        for route in table.values() if isinstance(table, Mapping) else ():
            queue = route if isinstance(route, str) else route.get("queue") if isinstance(route, Mapping) else None
            if isinstance(queue, str):
                names.add(queue)
    return sorted(names)
