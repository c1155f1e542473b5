"""One SQLite file: connections, transactions, schema and waiting, shared by the SQLite broker and backend.

A process has one connection to a file, whoever uses it, and a lock around it: SQLite lets one writer in at a time, so
more connections would only wait for each other in the file instead of in memory. The connection is closed before every
fork, because SQLite's bookkeeping of its file locks is per process and would be wrong in a child that inherited it.

The file must be on a local disk: WAL mode needs memory that all its users share.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from dispatcher import sqlite_schema
from dispatcher.clock import SYSTEM, Clock
from dispatcher.exceptions import DispatcherError, ImproperlyConfigured, OperationalError
from dispatcher.utils import forks
from dispatcher.utils.options import seconds_option

Answer = TypeVar("Answer")
Row = tuple[Any, ...]
#: what changes when anybody writes: this process's own writes, and SQLite's count of everybody else's
Version = tuple[int, int]

#: the options every adapter on a store takes
OPTIONS: Final = ("timeout", "synchronous")

#: A wait looks for other processes' writes after a share of the time in which nothing has changed, within these bounds
#: in seconds: prompt while there is work, and 0.4 % of a core once there has been none for seconds.
_PAUSE_SHARE: Final = 0.02
_SHORTEST_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.05
#: how often a connection makes sure that its file is still the one at its path, in seconds
_INODE_CHECK: Final = 1.0
#: connections of a parent whose fork bypassed Python's hooks; closing one would release the parent's locks
_inherited: list[sqlite3.Connection] = []


class Store:
    """A file and this process's connection to it."""

    def __init__(self, path: str, timeout: float, synchronous: str) -> None:
        self.path = path
        self._timeout = timeout
        self._synchronous = self._current_synchronous = synchronous
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._connection: sqlite3.Connection | None = None
        #: the connection while a transaction goes on that writes are to be part of
        self._joint: sqlite3.Connection | None = None
        self._pid = 0
        self._inode = 0
        self._next_inode_check = 0.0
        self._commits = 0
        self._changed_at = time.monotonic()
        self._queue_ids: dict[str, int] = {}
        forks.watch(self)

    def read(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        """Return the rows of one query; raise `OperationalError` naming the file."""
        with self._lock:
            try:
                # Fetched whole: a cursor left open would keep the log from being reset.
                return self._open().execute(sql, parameters).fetchall()
            except BaseException as error:
                self._abandon(error)
                raise

    def write(self, work: Callable[[sqlite3.Connection], Answer], *, passing: bool = False) -> Answer:
        """Run ``work`` in a write transaction, all or nothing, and wake whoever waits in this process.

        What is ``passing`` means nothing after a power failure, so its commit never waits for the disk. Raises
        `OperationalError` naming the file.
        """
        with self._lock:
            if self._joint is not None:
                return work(self._joint)
            try:
                connection = self._begin(passing)
                answer = work(connection)
                connection.execute("COMMIT")
            except BaseException as error:
                self._abandon(error)
                raise
            self._note_commit()
            return answer

    def transaction(self, work: Callable[[], Answer]) -> Answer:
        """Make all that this thread writes in ``work`` one transaction, all or nothing; return what it returns.

        Nobody else can write meanwhile. Raises `OperationalError` naming the file.
        """
        with self._lock:
            try:
                self._joint = connection = self._begin(passing=False)
                answer = work()
                connection.execute("COMMIT")
            except BaseException as error:
                self._abandon(error)
                raise
            finally:
                self._joint = None
            self._note_commit()
            return answer

    def version(self) -> Version:
        """Return a value that differs after any committed write, by whichever process; costs microseconds."""
        with self._lock:
            return self._commits, self.read("PRAGMA data_version")[0][0]

    def wait(self, seen: Version, seconds: float, clock: Clock) -> None:
        """Wait until the version is no longer ``seen``, at most for this many seconds.

        Another thread's write ends the wait at once, another process's within 0.2 to 50 ms. A clock other than the
        system's cannot wake a waiting thread, so one step of the wait is spent by its ``sleep``.
        """
        if clock is not SYSTEM:
            clock.sleep(min(seconds, _LONGEST_PAUSE))
            return
        now = time.monotonic()
        deadline = now + seconds
        with self._lock:
            while now < deadline:
                if self.version() != seen:
                    self._changed_at = now
                    return
                pause = min(max(_SHORTEST_PAUSE, _PAUSE_SHARE * (now - self._changed_at)), _LONGEST_PAUSE)
                self._changed.wait(min(pause, deadline - now))
                now = time.monotonic()

    def queue_id(self, name: str) -> int | None:
        """Return a queue's number, `None` where nobody has sent to it."""
        with self._lock:
            found = self._queue_ids.get(name)
            if found is None:
                rows = self.read("SELECT id FROM queues WHERE name = ?", (name,))
                if rows:
                    found = self._queue_ids[name] = rows[0][0]
            return found

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
            self._queue_ids.clear()
            if connection is None:
                return
            if self._pid == os.getpid():
                connection.close()
            else:
                _inherited.append(connection)

    def __del__(self) -> None:
        # Scripts seldom close their apps, and from Python 3.13 on a connection warns that is left to the collector.
        self.close()

    def before_fork(self) -> None:
        """Close the connection and keep threads from opening one."""
        self._lock.acquire()
        try:
            self.close()
        except BaseException:  # of a signal's handler, say; it is called again
            self._lock.release()
            raise

    def after_fork_in_parent(self) -> None:
        """Let threads open a connection again."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Forget the parent's threads."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def _begin(self, passing: bool) -> sqlite3.Connection:
        """Begin a write transaction, whose commit waits for the disk unless it is ``passing``."""
        connection = self._open()
        synchronous = "normal" if passing else self._synchronous
        if synchronous != self._current_synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._current_synchronous = synchronous
        connection.execute("BEGIN IMMEDIATE")
        return connection

    def _note_commit(self) -> None:
        self._commits += 1
        self._changed_at = time.monotonic()
        self._changed.notify_all()

    def _open(self) -> sqlite3.Connection:
        now = time.monotonic()
        if self._connection is not None and now >= self._next_inode_check:
            self._next_inode_check = now + _INODE_CHECK
            # A file that was removed or replaced would still take writes, which nobody else would ever see.
            if self._pid != os.getpid() or _inode(self.path) != self._inode:
                self.close()
        if self._connection is None or self._pid != os.getpid():
            self.close()
            self._connection = self._connect()
            self._pid = os.getpid()
            self._inode = _inode(self.path)
            self._next_inode_check = now + _INODE_CHECK
            # Whoever compares versions of two connections must see a difference.
            self._commits += 1
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        _check_place(self.path)
        connection = sqlite3.connect(
            self.path, timeout=self._timeout, isolation_level=None, check_same_thread=False, cached_statements=64
        )
        try:
            self._check_owner(connection)
            self._enter_wal(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            self._current_synchronous = self._synchronous
            sqlite_schema.create(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        """Refuse a file that is not ours to write to, before anything in it is changed."""
        # One snapshot: another process may be creating the schema right now.
        connection.execute("BEGIN")
        ((owner,),) = connection.execute("PRAGMA application_id").fetchall()
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        taken = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        connection.execute("COMMIT")
        if owner == sqlite_schema.APPLICATION_ID and version > sqlite_schema.VERSION:
            raise ImproperlyConfigured(
                f"{self.path} was written by a newer release (schema {version}, this one knows "
                f"{sqlite_schema.VERSION}); upgrade serverless-dispatcher here, or name another file"
            )
        if owner != sqlite_schema.APPLICATION_ID and taken:
            raise ImproperlyConfigured(f"{self.path} is another application's database; name a file of its own")

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
                break
            except sqlite3.OperationalError as error:
                # Two processes that create the file at once: SQLite reports this lock without waiting for it.
                if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise ImproperlyConfigured(
                f"{self.path} cannot be used: its file system does not support SQLite's WAL mode; "
                "put it on a local disk"
            )

    def _abandon(self, error: BaseException) -> None:
        """Drop the connection and its transaction; raise an `sqlite3.Error` as one of ours."""
        try:
            self.close()
        except sqlite3.Error as second:
            error.add_note(f"closing the connection failed too: {second}")
        if isinstance(error, sqlite3.Error):
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> DispatcherError:
        code = _primary_code(error)
        if code == sqlite3.SQLITE_BUSY:
            return OperationalError(f"{self.path} stayed locked by another process for {self._timeout:g} s ({error})")
        kind, remedy = _REMEDIES.get(code, (OperationalError, "see the cause"))
        return kind(f"{self.path} cannot be used: {error}; {remedy}")


_REMEDIES: Final[Mapping[int, tuple[type[DispatcherError], str]]] = {
    sqlite3.SQLITE_CANTOPEN: (ImproperlyConfigured, "its folder must exist and be writable"),
    sqlite3.SQLITE_READONLY: (
        ImproperlyConfigured,
        "the file and its folder must be writable, because SQLite keeps a log beside it",
    ),
    sqlite3.SQLITE_NOTADB: (ImproperlyConfigured, "it is not an SQLite database; name another file"),
    sqlite3.SQLITE_PERM: (ImproperlyConfigured, "the file and its folder must be readable and writable"),
    sqlite3.SQLITE_FULL: (OperationalError, "free space on its disk"),
    sqlite3.SQLITE_CORRUPT: (
        OperationalError,
        "it is damaged: move it and its -wal and -shm files away, or restore it",
    ),
    sqlite3.SQLITE_IOERR: (OperationalError, "its disk failed, is full, or is not a local one"),
}

#: file systems of other machines, where SQLite's locks and shared memory do not reach every user
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "beegfs", "fuse.sshfs",
     "fuse.glusterfs", "fuse.s3fs", "fuse.mount-s3", "davfs", "fuse.rclone"}
)  # fmt: skip

_stores: weakref.WeakValueDictionary[tuple[str, float, str], Store] = weakref.WeakValueDictionary()
_stores_lock = forks.safe_lock()


def open_store(url: str, options: Mapping[str, Any]) -> Store:
    """Return this process's store for a URL: ``sqlite:///relative.db`` or ``sqlite:////absolute/path.db``.

    A relative path starts at the working directory of this moment. Options: ``timeout``, how long to wait for another
    process's write, in seconds (default 30), and ``synchronous``: ``normal`` (default), by which a killed process loses
    nothing but a power failure may lose the last moments, or ``full``, which syncs the disk with every write. A lease,
    which ends with the power either way, syncs nothing.
    """
    path = _path(url)
    timeout = seconds_option(f"sqlite:///{path}", options, "timeout", 30.0)
    synchronous = options.get("synchronous", "normal")
    if synchronous not in ("normal", "full"):
        raise ImproperlyConfigured(f"the option 'synchronous' must be 'normal' or 'full', not {synchronous!r}")
    key = (path, timeout, synchronous)
    with _stores_lock:
        store = _stores.get(key)
        if store is None:
            store = _stores[key] = Store(*key)
        return store


def _path(url: str) -> str:
    path = url.partition("://")[2]
    if not path.startswith("/") or path == "/":
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///relative.db or sqlite:////absolute/path.db")
    if "?" in path:
        raise ImproperlyConfigured(f"{url!r}: options are given as broker or backend options, not in the URL")
    if path == "/:memory:":
        raise ImproperlyConfigured(f"{url!r} would be empty for every connection; use memory:// instead")
    return os.path.realpath(path[1:])


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _check_place(path: str) -> None:
    """Refuse what SQLite would report poorly or not at all."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise ImproperlyConfigured(f"{path} cannot be used: the folder {folder} does not exist; create it first")
    if Path(path).is_dir():
        raise ImproperlyConfigured(f"{path} cannot be used: it is a folder; name a file in it")
    kind = file_system_of(str(folder), _mounts())
    if kind in _NETWORK_FILE_SYSTEMS:
        raise ImproperlyConfigured(
            f"{path} cannot be used: it is on a network file system ({kind}), where SQLite loses data when several "
            "machines write; put it on a local disk, or use another broker"
        )


def _mounts() -> str:
    """Return Linux's table of mounted file systems, or nothing where the system has none."""
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def file_system_of(folder: str, mounts: str) -> str:
    """Return the type of the file system a folder is on, by a table in the form of ``/proc/mounts``."""
    fitting = [(0, 0, "")]
    for number, line in enumerate(mounts.splitlines()):
        _, point, kind, *_ = line.split(" ")
        if f"{folder}/".startswith(point.replace("\\040", " ").rstrip("/") + "/"):
            fitting.append((len(point), number, kind))
    return max(fitting)[2]


def _primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's error code without its extension; 0 where the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
