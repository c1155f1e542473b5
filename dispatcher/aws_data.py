"""Botocore's data, by the shortest way to those of the services that we use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import botocore
import botocore.session
from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.handlers import BUILTIN_HANDLERS, REGISTER_FIRST, REGISTER_LAST
from botocore.loaders import Loader

#: The services that have clients wherever tasks are sent or run, and the versions of their models.
SERVICES: Final = {
    "sqs": "2012-11-05",
    "dynamodb": "2012-08-10",
    "s3": "2006-03-01",
    "scheduler": "2021-06-30",
}


class PinnedLoader(Loader):  # type: ignore[misc]
    """Botocore's loader without its two detours: listing 400 service directories, and the 1.2 MB ``endpoints.json``.

    A client's address comes from the service's own rule set; the old endpoint table only adds the partition, which the
    small ``partitions.json`` knows as well, FIPS and dual-stack variants aside. Saves 35 of 170 ms at a cold start.
    """

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """Load the pinned version without asking which services there are."""
        version = api_version or SERVICES.get(service_name)
        if version is not None:
            try:
                model = self.load_data(f"{service_name}/{version}/{type_name}")
            except DataNotFoundError:
                pass  # a botocore that moved on to a newer version: find it the long way
            else:
                self._extras_processor.process(model, self._find_extras(service_name, type_name, version))
                return model
        return super().load_service_model(service_name, type_name, api_version)

    def load_data_with_path(self, name: str) -> Any:
        """Load a file, building ``endpoints`` from the partitions."""
        if name == "endpoints":
            return _endpoints(self.load_data("partitions")), ""
        return super().load_data_with_path(name)

    def load_data(self, name: str) -> Any:
        """Load a file, building ``endpoints`` from the partitions."""
        return self.load_data_with_path(name)[0] if name == "endpoints" else super().load_data(name)


def _endpoints(partitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``endpoints.json`` that holds for every service of a partition."""
    return {
        "version": 3,
        "partitions": [
            {
                "partition": partition["id"],
                "dnsSuffix": partition["outputs"]["dnsSuffix"],
                "regionRegex": partition["regionRegex"],
                "regions": partition["regions"],
                "services": {},
                "defaults": {
                    "hostname": "{service}.{region}.{dnsSuffix}",
                    "protocols": ["https"],
                    "signatureVersions": ["v4"],
                },
            }
            for partition in partitions["partitions"]
        ],
    }


def small_session() -> Any:
    """Return a session for clients of `SERVICES`: without what botocore does for other services and documentation.

    Each of its 130 event handlers is looked at when a session is made, and copied for each client; half of them matter.
    """
    session = botocore.session.Session(include_builtin_handlers=False)
    events = session.get_component("event_emitter")
    register = {None: events.register, REGISTER_FIRST: events.register_first, REGISTER_LAST: events.register_last}
    for event, handler, *order in BUILTIN_HANDLERS:
        kind, _, rest = event.partition(".")
        if kind != "docs" and (not rest or rest.partition(".")[0] in SERVICES):
            register[order[0] if order else None](event, handler)
    return session


def _explain_left_out() -> None:
    """Have botocore say why it does not know a service that `dispatcher.packaging` has left out of a function."""
    try:
        UnknownServiceError.fmt += Path(botocore.__file__).with_name("data").joinpath("left-out.txt").read_text("utf-8")
    except FileNotFoundError:
        pass  # botocore is whole


_explain_left_out()
