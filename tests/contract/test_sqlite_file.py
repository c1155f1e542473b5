"""What the SQLite adapters promise about their file: its place, its state, its users, and processes that die."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from dispatcher import sqlite_schema, sqlite_store
from dispatcher.backends.base import Write
from dispatcher.backends.sqlite import SQLiteBackend
from dispatcher.brokers import sqlite as sqlite_broker
from dispatcher.brokers.base import Broker, Delivery, Outgoing, QueueCounts, Settlement
from dispatcher.brokers.sqlite import SQLiteBroker
from dispatcher.clock import SYSTEM, ManualClock
from dispatcher.exceptions import ImproperlyConfigured, OperationalError
from tests.contract import children
from tests.contract.harness import Harness, Kind, Recipe

QUEUE = "contract"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "queue.db"


@pytest.fixture
def recipe(path: Path) -> Recipe:
    """A broker on it."""
    return Recipe("dispatcher.brokers.sqlite:SQLiteBroker", f"sqlite:///{path}")


def send(recipe: Recipe, *bodies: str) -> None:
    """Send from this process and close."""
    broker = recipe.open()
    broker.send([Outgoing(QUEUE, body, body) for body in bodies])
    broker.close()


def drain(recipe: Recipe) -> Counter[str]:
    """Receive everything there is, leases that have yet to end included."""
    harness = Harness[SQLiteBroker](Kind(recipe), SYSTEM)
    broker = harness.open()
    bodies: Counter[str] = Counter()
    while sum(broker.counts(QUEUE)[:3]):
        deliveries = broker.receive([QUEUE], 1000, wait=5.0)
        bodies.update(str(delivery.body) for delivery in deliveries)
        broker.settle([Settlement(delivery, "ack") for delivery in deliveries])
    harness.close()
    return bodies


# The URL and the place


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://queue.db"])
def test_a_url_without_a_file_is_refused(url: str) -> None:
    """The error shows how a URL is written."""
    with pytest.raises(ImproperlyConfigured, match=r"sqlite:////absolute/path\.db"):
        SQLiteBroker(url)


def test_a_url_for_memory_names_the_alternative() -> None:
    """SQLite's own memory databases are one per connection; memory:// is what was meant."""
    with pytest.raises(ImproperlyConfigured, match="memory://"):
        SQLiteBackend("sqlite:///:memory:")


def test_a_relative_path_starts_where_the_process_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing the directory later does not change the file."""
    monkeypatch.chdir(tmp_path)
    broker = SQLiteBroker("sqlite:///relative.db")
    monkeypatch.chdir("/")
    assert broker.queues() == []
    broker.close()
    assert (tmp_path / "relative.db").exists()


def test_opening_touches_no_file(path: Path) -> None:
    """The file is made on first use, not by construction."""
    SQLiteBroker(f"sqlite:///{path}")
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"timeuot": 1}, "timeout"), ({"timeout": 0}, "positive"), ({"synchronous": "off"}, "full"), ({"x": 1}, "knows")],
)
def test_options_are_checked(path: Path, options: dict[str, object], words: str) -> None:
    """An unknown option or a value that cannot work is an error, not ignored."""
    with pytest.raises(ImproperlyConfigured, match=words):
        SQLiteBroker(f"sqlite:///{path}", options)


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_both_durabilities_work(path: Path, synchronous: str) -> None:
    """The option is taken by broker and backend."""
    broker = SQLiteBroker(f"sqlite:///{path}", {"synchronous": synchronous, "timeout": 5})
    broker.send([Outgoing(QUEUE, "kept", "1")])
    backend = SQLiteBackend(f"sqlite:///{path}", {"synchronous": synchronous, "timeout": 5})
    assert backend.read(["1"]) == {}
    assert broker.counts(QUEUE).ready == 1
    broker.close()


def test_only_what_a_power_failure_could_lose_waits_for_the_disk(path: Path) -> None:
    """With ``full``, sending and settling sync the disk, and leasing does not: a lease ends with the power."""
    options = {"synchronous": "full"}
    broker = SQLiteBroker(f"sqlite:///{path}", options)
    store = sqlite_store.open_store(f"sqlite:///{path}", options)

    def synced() -> bool:
        return store.read("PRAGMA synchronous") == [(2,)]

    broker.send([Outgoing(QUEUE, "kept", "1")])
    assert synced()
    [delivery] = broker.receive([QUEUE], 1)
    assert not synced()
    broker.settle([Settlement(delivery, "ack")])
    assert synced()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The error names the folder to create."""
    with pytest.raises(ImproperlyConfigured, match=f"{tmp_path}/missing does not exist"):
        SQLiteBroker(f"sqlite:///{tmp_path}/missing/queue.db").queues()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """The error says that the path is a folder."""
    with pytest.raises(ImproperlyConfigured, match="is a folder"):
        SQLiteBackend(f"sqlite:///{tmp_path}").read(["1"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error names the file and asks for a writable folder."""
    tmp_path.chmod(0o500)
    with pytest.raises(ImproperlyConfigured, match="writable"):
        SQLiteBroker(f"sqlite:///{tmp_path}/queue.db").queues()


MOUNTS = r"""rootfs / rootfs rw 0 0
/dev/sda / ext4 rw 0 0
srv:/x /home/my\040share nfs4 rw 0 0
tmpfs /home tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/var", "ext4"), ("/home", "tmpfs"), ("/home/my share/a", "nfs4"), ("/home/my share2", "tmpfs")],
)
def test_the_file_system_is_the_one_mounted_closest(folder: str, kind: str) -> None:
    """The longest mount point that contains the folder decides, and of two on one point the later."""
    assert sqlite_store.file_system_of(folder, MOUNTS) == kind


# What is in the file


def test_a_newer_schema_is_refused(path: Path, recipe: Recipe) -> None:
    """An older release does not guess at a newer one's tables."""
    send(recipe, "one")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ImproperlyConfigured, match=r"newer release \(schema 99"):
        recipe.open().queues()


#: the tables of version 1
FIRST_SCHEMA = f"""
    CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, state INTEGER NOT NULL, rank REAL NOT NULL,
        priority INTEGER NOT NULL, receives INTEGER NOT NULL, lease INTEGER NOT NULL, sent_at REAL NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX messages_by_rank ON messages (queue, state, rank);
    CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY, queue INTEGER NOT NULL, message INTEGER NOT NULL, died_at REAL NOT NULL,
        reason TEXT NOT NULL, body TEXT NOT NULL
    );
    CREATE INDEX dead_letters_by_queue ON dead_letters (queue);
    CREATE TABLE records (
        id TEXT PRIMARY KEY NOT NULL, status TEXT NOT NULL, gen INTEGER NOT NULL, retries INTEGER NOT NULL,
        final INTEGER NOT NULL, token TEXT NOT NULL, starts INTEGER NOT NULL, revoked INTEGER NOT NULL, not_before REAL,
        expires_at REAL NOT NULL, data TEXT NOT NULL
    );
    CREATE INDEX records_by_expiry ON records (expires_at);
    PRAGMA application_id = {sqlite_schema.APPLICATION_ID};
    INSERT INTO queues VALUES (1, '{QUEUE}');
    INSERT INTO messages VALUES (3, 1, 0, 0, 0, 0, 0, 7.0, 'waiting');
    INSERT INTO messages VALUES (5, 1, 2, 9e9, 0, 1, 1, 7.0, 'leased');
    INSERT INTO messages VALUES (6, 1, 1, 9e9, 0, 0, 0, 7.0, 'delayed');
    INSERT INTO messages VALUES (40, 1, 0, 0, 0, 0, 0, 7.0, 'done');
    DELETE FROM messages WHERE id = 40;
    INSERT INTO dead_letters VALUES (1, 1, 2, 8.0, '{{"reason": "rejected"}}', 'dead');
"""


@pytest.mark.parametrize("version", range(1, 8))
def test_an_older_schema_is_upgraded(path: Path, recipe: Recipe, version: int) -> None:
    """What an earlier release left is there: messages, leases that are held, dead letters, ids that were used."""
    with sqlite3.connect(path) as connection:
        connection.executescript(";".join([FIRST_SCHEMA, *sqlite_schema.UPGRADES[: version - 1]]))
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    broker = recipe.open()
    assert broker.counts(QUEUE) == QueueCounts(ready=1, delayed=1, in_flight=1, dead=1)
    broker.settle([Settlement(Delivery(QUEUE, "leased", (5, 1)), "ack")])
    assert [broker.redrive(page) for page in broker.walk_dead_letters(QUEUE)] == [1]
    broker.send([Outgoing(QUEUE, "new", "new")])
    assert [(delivery.body, delivery.message_id) for delivery in broker.receive([QUEUE], 10)] == [
        ("waiting", "3"), ("dead", "41"), ("new", "42"),
    ]  # fmt: skip
    assert broker.counts(QUEUE) == QueueCounts(ready=0, delayed=1, in_flight=3, dead=0)
    broker.close()
    backend = SQLiteBackend(broker.url)
    write = Write("t", "STARTED", 0, 0, 0, final=False, token="", expires_at=time.time() + 60, started_at=1.5)
    assert backend.write([write]) == [None]
    assert backend.read(["t"]) == {"t": write.record()}
    assert len(backend.reserve("b", 2, 1.0)) == 2
    backend.close()


def test_no_id_comes_twice(recipe: Recipe) -> None:
    """However a message goes, the next one's id is another, so that an old receipt is good for nothing."""
    gone: list[Delivery] = []

    def take(broker: Broker) -> Delivery:
        (delivery,) = broker.receive([QUEUE], 1)
        assert int(delivery.message_id) > max((int(each.message_id) for each in gone), default=0)
        gone.append(delivery)
        return delivery

    def purge(broker: Broker, delivery: Delivery) -> None:
        broker.settle([Settlement(delivery, "release")])
        assert broker.purge(QUEUE) == 1

    def redrive(broker: Broker, delivery: Delivery) -> None:
        broker.settle([Settlement(delivery, "dead")])
        assert broker.redrive(broker.dead_letters(QUEUE)) == 1
        broker.settle([Settlement(take(broker), "ack")])

    def forget(broker: Broker, delivery: Delivery) -> None:
        broker.settle([Settlement(delivery, "dead")])
        assert broker.remove_dead_letters(broker.dead_letters(QUEUE)) == 1

    def succeed(broker: Broker, delivery: Delivery) -> None:
        broker.settle([Settlement(delivery, "ack")])

    for go in (succeed, purge, redrive, forget, succeed):
        broker = recipe.open()
        broker.send([Outgoing(QUEUE, "body", "1")])
        go(broker, take(broker))
        broker.send([Outgoing(QUEUE, "kept", "2"), Outgoing(QUEUE, "other", "3")])
        kept, other = broker.receive([QUEUE], 2)
        broker.settle([Settlement(delivery, "ack") for delivery in gone])
        assert broker.counts(QUEUE).in_flight == 2
        # The highest goes first, then one below it.
        broker.settle([Settlement(other, "ack"), Settlement(kept, "ack")])
        gone += [kept, other]
        broker.close()


def test_a_send_writes_two_pages(path: Path) -> None:
    """A message costs its own page and its index's, no other, as each is synced: nothing counts messages."""
    broker = SQLiteBroker(f"sqlite:///{path}", {"synchronous": "full"})
    log = Path(f"{path}-wal")

    def send() -> int:
        before = log.stat().st_size
        broker.send([Outgoing(QUEUE, "body", "1")])
        return (log.stat().st_size - before) // 4096

    broker.send([Outgoing(QUEUE, "first", "0")])
    assert [send() for _ in range(5)] == [2] * 5
    broker.close()


def test_a_foreign_database_is_left_alone(path: Path, recipe: Recipe) -> None:
    """Another application's file is refused and not changed."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE auth_user (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ImproperlyConfigured, match="another application"):
        recipe.open().queues()
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path, recipe: Recipe) -> None:
    """The error names the file."""
    path.write_text("To be, or not to be. " * 100)
    with pytest.raises(ImproperlyConfigured, match=f"{path}.* not an SQLite database"):
        recipe.open().queues()


def test_a_damaged_file_is_reported(path: Path, recipe: Recipe) -> None:
    """The error names the file and what to do."""
    send(recipe, *(f"body {number}" for number in range(500)))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(OperationalError, match=f"{path}.* damaged"):
        recipe.open().receive([QUEUE], 10)


class Noting(ManualClock):
    """A manual clock that tells when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def time(self) -> float:
        """Return the pretended wall clock."""
        now = super().time()
        self.asked.set()
        return now


def test_a_lease_begins_once_the_file_is_free(path: Path) -> None:
    """Whoever waited for another's lock has the message for as long as one who did not."""
    clock = Noting()
    broker = SQLiteBroker(f"sqlite:///{path}", {"visibility_timeout": 10.0}, clock)
    broker.send([Outgoing(QUEUE, "body", "1")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    clock.asked.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(broker.receive, [QUEUE], 1)
        clock.asked.wait()
        clock.advance(8.0)
        other.execute("COMMIT")
        [delivery] = receiving.result()
    other.close()
    assert delivery.leased_at == clock.monotonic()
    clock.advance(9.0)
    assert broker.receive([QUEUE], 1) == []
    broker.close()


def test_a_lock_that_is_never_released_is_reported(path: Path, recipe: Recipe) -> None:
    """After its patience the error names the file; once the lock is gone the same broker works."""
    send(recipe, "one")
    broker = recipe.open(timeout=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match=f"{path} stayed locked by another process for 0.05 s"):
        broker.send([Outgoing(QUEUE, "two", "2")])
    other.close()
    broker.send([Outgoing(QUEUE, "three", "3")])
    broker.close()
    assert drain(recipe) == Counter(["one", "three"])


def test_a_full_disk_is_reported_and_survived(path: Path, recipe: Recipe) -> None:
    """What the disk refuses is an error that names the file; what was accepted is kept, and later sends work."""
    error = children.Child(children.send_within, recipe, QUEUE, 3_000_000).result()
    assert str(path) in error
    assert "full" in error
    bodies = drain(recipe)
    assert (bodies["before"], bodies["after"]) == (1, 1)


def test_a_removed_file_is_made_anew(path: Path, recipe: Recipe) -> None:
    """A worker does not go on for ever with a file that nobody else can see."""
    harness = Harness[SQLiteBroker](Kind(recipe), SYSTEM)
    broker = harness.open()
    broker.send([Outgoing(QUEUE, "lost", "1")])
    for name in path.parent.glob("queue.db*"):
        name.unlink()
    children.Child(children.send, recipe, [Outgoing(QUEUE, "new", "2")]).result()
    harness.eventually(lambda: "new" in [delivery.body for delivery in broker.receive([QUEUE], 10)])
    harness.close()


def test_broker_and_backend_share_a_file(path: Path, recipe: Recipe) -> None:
    """Closing one leaves the other working."""
    broker, backend = recipe.open(), SQLiteBackend(f"sqlite:///{path}")
    broker.send([Outgoing(QUEUE, "one", "1")])
    backend.write([Write("1", "SUCCESS", 0, 0, 0, True, "run", SYSTEM.time() + 60)])
    backend.close()
    assert broker.counts(QUEUE).ready == 1
    broker.close()
    assert backend.read(["1"])["1"].final
    backend.close()


def test_expired_records_leave_the_file(path: Path) -> None:
    """Writes clean up after records whose time has passed."""
    clock = ManualClock()
    backend = SQLiteBackend(f"sqlite:///{path}", clock=clock)
    for start in range(0, 200, 20):
        backend.write(
            [Write(f"old-{n}", "SUCCESS", 0, 0, 0, True, "run", clock.time() + 5) for n in range(start, start + 20)]
        )
    clock.advance(10)
    for number in range(30):
        backend.write([Write(f"new-{number}", "SUCCESS", 0, 0, 0, True, "run", clock.time() + 60)])
    backend.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM records").fetchall() == [(30,)]
    connection.close()


@pytest.mark.parametrize(
    "name", ["_INSERT", "_ANYTHING", "_NEXT_DUE", "_WAKE", "_NEXT", "_LEASE", "_ACK", "_EXTEND", "_BURY"]
)
def test_the_statements_of_a_run_search_by_index(path: Path, recipe: Recipe, name: str) -> None:
    """No statement that a worker runs for each batch reads the whole table or sorts it, however long the backlog."""
    send(recipe, "one")
    sql = getattr(sqlite_broker, name)
    parameters = {"queue": 1, "now": 1.0} if ":queue" in sql else (1,) * sql.count("?")
    with sqlite3.connect(path) as connection:
        plan = [row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    connection.close()
    assert not [step for step in plan if step.startswith("SCAN messages") or "TEMP B-TREE" in step], plan


def test_no_statement_numbers_its_parameters() -> None:
    """Early releases of Python 3.12 take numbered parameters for named ones, and warn at each call."""
    package = Path(sqlite_store.__file__).parent
    sources = [*package.glob("sqlite_*.py"), *package.glob("*/sqlite*.py")]
    assert len(sources) > 4
    assert not [source.name for source in sources if re.search(r"\?\d", source.read_text(encoding="utf-8"))]


# Its users


def test_many_processes_may_create_the_file(recipe: Recipe) -> None:
    """Whoever comes first makes the schema; the others wait and use it."""
    gates = [multiprocessing.Pipe() for _ in range(4)]
    users = [children.Child(children.open_at_once, recipe, QUEUE, theirs) for _, theirs in gates]
    for ours, _ in gates:
        ours.send(True)
    for user in users:
        user.result()
    assert drain(recipe) == Counter(["{}"] * 4)


def test_a_forked_child_keeps_its_hold_on_the_file(recipe: Recipe) -> None:
    """The parent's closing after a fork takes nothing from under the child: its writes are all there in the end."""
    broker = recipe.open()
    broker.send([Outgoing(QUEUE, "parent", "1")])
    ours, theirs = multiprocessing.Pipe()
    child = children.Child(children.send_in_steps, broker, QUEUE, theirs, method="fork")
    for more in (True, True, True):
        ours.send(more)
        assert ours.recv()
        broker.counts(QUEUE)
        broker.close()
    ours.send(False)
    child.result()
    assert drain(recipe) == Counter({"parent": 1, "step": 3})


def test_a_killed_producer_loses_nothing_it_was_told_is_sent(recipe: Recipe) -> None:
    """Every message that `send` returned for is there after SIGKILL, and no half batch."""
    ours, theirs = multiprocessing.Pipe()
    producer = children.Child(children.send_until_killed, recipe, QUEUE, theirs)
    accepted = [body for _ in range(50) for body in ours.recv()]
    producer.process.kill()
    producer.finish()
    while ours.poll():
        accepted += ours.recv()
    bodies = drain(recipe)
    assert set(accepted) <= set(bodies)
    assert len(bodies) % 3 == 0
    assert set(bodies.values()) == {1}


def test_a_killed_consumer_loses_nothing(recipe: Recipe) -> None:
    """What it had acked is gone, all the rest comes again."""
    sent = [f"body {number}" for number in range(400)]
    send(recipe, *sent)
    ours, theirs = multiprocessing.Pipe()
    consumer = children.Child(children.consume_until_killed, recipe, QUEUE, theirs)
    settled = [body for _ in range(20) for body in ours.recv()]
    consumer.process.kill()
    consumer.finish()
    while ours.poll():
        settled += ours.recv()
    bodies = drain(recipe)
    assert not set(settled) & set(bodies)
    # At most one batch was acked without the report getting through.
    assert len(sent) - len(settled) - len(bodies) in range(5)
    assert set(bodies.values()) == {1}
