"""Stored entries: those that are made, changed and removed while the app runs, as rows of the result backend.

Each has a row of its own, from which a worker takes what a firing is to start, and there is one row with the names of
all. Both change in one write, on the condition that nobody changed them meanwhile. With signing keys an entry is
signed: it says which task runs with which arguments, as a message does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from dispatcher import schedules
from dispatcher.backends.base import ResultBackend, TaskRecord, Write
from dispatcher.beat.entries import Entry, entry_of, identity
from dispatcher.exceptions import (
    DecodeError,
    DispatcherError,
    EncodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    SecurityError,
)
from dispatcher.message import LOCK_PREFIX
from dispatcher.serialization import json_decode, json_encode

#: How long an entry stays in the store without being changed, in seconds: for ever, for its purpose.
_KEPT: Final = 50 * 366 * 86_400.0
#: How often a change is tried again when others change entries at the same time.
_ATTEMPTS: Final = 50
_STATUS, _GONE, _NAMES = "ENTRY", "GONE", "ENTRIES"


class EntryGone(DispatcherError):
    """There was an entry of this name, and it was deleted; ``entry`` is what it was, where that can still be read."""

    def __init__(self, message: str, entry: Entry | None) -> None:
        super().__init__(message)
        self.entry = entry


class Store:
    """The stored entries of an app."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._prefix = f"{LOCK_PREFIX}entry/{identity(app)}"

    @property
    def _backend(self) -> ResultBackend:
        backend: ResultBackend = self._app.backend
        return backend

    def get(self, name: str) -> Entry | None:
        """Return an entry, `None` where there is none. Raises `EntryGone` for one that was deleted of late."""
        row = self._row(name)
        return self._entry(name, self._backend.read([row]).get(row))

    def versions(self) -> dict[str, int]:
        """Return the version of each entry, by name: another one says that it was changed."""
        return _names_of(self._backend.read([self._prefix]).get(self._prefix))

    def many(self, names: list[str]) -> dict[str, Entry]:
        """Return entries by name; those that are gone meanwhile are left out."""
        rows = {name: self._row(name) for name in names}
        found = self._backend.read(list(rows.values()))
        entries = {}
        for name, row in rows.items():
            record = found.get(row)
            if record is not None and record.status == _STATUS:
                entry = self._entry(name, record)
                if entry is not None:
                    entries[name] = entry
        return entries

    def read(self, name: str, given: Mapping[str, Any], since: float) -> Entry:
        """Check an entry in Celery's form of a dict, which is to fire for times after ``since``, in epoch seconds."""
        return entry_of(self._app, name, given, where="app.schedules", dynamic=True, since=since)

    def put(self, entry: Entry, given: Mapping[str, Any]) -> None:
        """Make or change an entry that was read from Celery's form of a dict."""
        self._change(entry.name, self._seal(entry.name, _text_of(entry, given)), _STATUS)

    def remove(self, name: str) -> bool:
        """Remove an entry; return whether there was one. Its name is known to be gone for a while."""
        if name not in self.versions():
            return False
        self._change(name, None, _GONE)
        return True

    def _change(self, name: str, data: str | None, status: str) -> None:
        """Write a row and the list; with no data the row keeps what it had, for what the entry has begun."""
        backend, row, now = self._backend, self._row(name), self._app.clock.time()
        for _ in range(_ATTEMPTS):
            found = backend.read([row, self._prefix])
            before, names = found.get(row), found.get(self._prefix)
            text = data if data is not None else before.data if before is not None else ""
            version = max(before.retries if before is not None else 0, int(now * 1000)) + 1
            known = _names_of(names)
            if status == _GONE:
                known.pop(name, None)
            else:
                known[name] = version
            listed = json.dumps(known, separators=(",", ":"))
            for what, each in ((f"the entry {name!r}", text), ("the list of all stored entries", listed)):
                if backend.max_data is not None and len(each) > backend.max_data:
                    raise MessageTooLarge(
                        f"{what} has {len(each):,} bytes, over the {backend.max_data:,} that {backend.describe()} keeps"
                    )
            kept = _KEPT if status == _STATUS else self._app.conf.record_retention
            writes = [
                _write(row, status, before, version, text, now + kept),
                _write(
                    self._prefix, _NAMES, names, (names.retries if names is not None else 0) + 1, listed, now + _KEPT
                ),
            ]
            if not any(backend.write_together(writes)):
                return
        raise DispatcherError(f"the entry {name!r} cannot be changed: others change entries all the time; try again")

    def _row(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _seal(self, name: str, text: str) -> str:
        """Return an entry as it is kept: with a seal where there are keys."""
        sealed: str = self._app.wire.seal_kept(self._row(name), text)
        return sealed

    def _entry(self, name: str, record: TaskRecord | None) -> Entry | None:
        if record is None:
            return None
        if record.status != _GONE:
            return self._read(name, record)
        try:
            entry = self._read(name, record)
        except (ImproperlyConfigured, SecurityError, DecodeError):
            entry = None
        raise EntryGone(f"the entry {name!r} was deleted", entry)

    def _read(self, name: str, record: TaskRecord) -> Entry:
        kept = json_decode(self._app.wire.open_kept(record.id, record.data))
        try:
            given = {**kept["entry"], "schedule": schedules.from_dict(kept["entry"]["schedule"])}
        except ValueError as error:  # of a later release
            raise ImproperlyConfigured(f"app.schedules: the entry {name!r}: {error}") from error
        return self.read(name, given, kept["since"])


def given_of(entry: Entry) -> dict[str, Any]:
    """Return an entry in Celery's form of a dict."""
    return {
        "task": entry.task, "schedule": entry.schedule, "args": list(entry.args), "kwargs": dict(entry.kwargs),
        "options": dict(entry.options), "enabled": entry.enabled, "catch_up": str(entry.catch_up),
        "catch_up_within": entry.within,
    }  # fmt: skip


def _text_of(entry: Entry, given: Mapping[str, Any]) -> str:
    try:
        kept = {**given_of(entry), "schedule": schedules.to_dict(entry.schedule)}
        if given.get("catch_up_within") is None:
            del kept["catch_up_within"]
        return json_encode({"entry": kept, "since": entry.since})
    except (TypeError, EncodeError) as error:
        raise ImproperlyConfigured(f"app.schedules: the entry {entry.name!r} cannot be stored: {error}") from error


def _names_of(record: TaskRecord | None) -> dict[str, int]:
    names: dict[str, int] = json.loads(record.data) if record is not None else {}
    return names


def _write(row: str, status: str, before: TaskRecord | None, version: int, data: str, expires_at: float) -> Write:
    return Write(
        id=row, status=status, gen=0, attempt=before.retries if before is not None else 0, retries=version, final=False,
        token=os.urandom(8).hex(), expires_at=expires_at, data=data, exists=before is not None,
    )  # fmt: skip
