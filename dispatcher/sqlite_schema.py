"""The tables of the SQLite file that the broker and the backend share, and what makes an older file a new one."""

from __future__ import annotations

import sqlite3
from typing import Final

APPLICATION_ID: Final = 0x64737074  # "dspt", so that a foreign database is recognised and left alone
#: the next slot of each rate limit, in microseconds since the epoch
_RATES: Final = "CREATE TABLE rates (bucket TEXT PRIMARY KEY NOT NULL, next INTEGER NOT NULL)"
_JOINS: Final = (
    """CREATE TABLE joins (
        id TEXT PRIMARY KEY NOT NULL,
        size INTEGER NOT NULL,
        done INTEGER NOT NULL DEFAULT 0,
        fired INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        expires_at REAL NOT NULL,
        body TEXT NOT NULL
    )""",
    """CREATE TABLE join_members (
        join_id TEXT NOT NULL, member INTEGER NOT NULL, PRIMARY KEY (join_id, member)
    ) WITHOUT ROWID""",
    "CREATE INDEX joins_by_expiry ON joins (expires_at)",
)
# `rank` is the priority of a ready message and the time at which another becomes ready. With the row's id, which the
# index ends in, one index finds the next ready message, the next due one, and counts each state.
# `lease` is the receive count whose receipt is valid, 0 for none.
_MESSAGES: Final = """CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        state INTEGER NOT NULL,
        rank REAL NOT NULL,
        priority INTEGER NOT NULL,
        receives INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        sent_at REAL NOT NULL,
        body TEXT NOT NULL
    )"""
_MESSAGES_BY_RANK: Final = "CREATE INDEX messages_by_rank ON messages (queue, state, rank)"
# No id comes twice: an old receipt would be good for another message. A message's id is one more than the highest there
# is, and than the highest that is gone, which `last_gone` keeps: its page is written when the message with the highest
# id goes, where AUTOINCREMENT would write one with each message that is sent.
_LAST_GONE: Final = "CREATE TABLE last_gone (id INTEGER NOT NULL)"
_NOTE_LAST_GONE: Final = """CREATE TRIGGER messages_note_last_gone AFTER DELETE ON messages
    WHEN old.id > (SELECT coalesce(max(id), 0) FROM messages)
    BEGIN UPDATE last_gone SET id = old.id WHERE id < old.id; END"""
#: the id of a message that is inserted
NEXT_ID: Final = "(SELECT max(id, (SELECT coalesce(max(id), 0) FROM messages)) + 1 FROM last_gone)"
_SCHEMA: Final = (
    "CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    _MESSAGES,
    _MESSAGES_BY_RANK,
    _LAST_GONE,
    "INSERT INTO last_gone VALUES (0)",
    _NOTE_LAST_GONE,
    """CREATE TABLE dead_letters (
        id INTEGER PRIMARY KEY,
        queue INTEGER NOT NULL,
        message INTEGER NOT NULL,
        died_at REAL NOT NULL,
        reason TEXT NOT NULL,
        body TEXT NOT NULL,
        priority INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX dead_letters_by_queue ON dead_letters (queue)",
    # `data` comes last: reading the columns before it touches none of its overflow pages.
    """CREATE TABLE records (
        id TEXT PRIMARY KEY NOT NULL,
        status TEXT NOT NULL,
        gen INTEGER NOT NULL,
        retries INTEGER NOT NULL,
        final INTEGER NOT NULL,
        token TEXT NOT NULL,
        starts INTEGER NOT NULL,
        revoked INTEGER NOT NULL,
        not_before REAL,
        started_at REAL,
        expires_at REAL NOT NULL,
        data TEXT NOT NULL
    )""",
    "CREATE INDEX records_by_expiry ON records (expires_at)",
    _RATES,
    *_JOINS,
    f"PRAGMA application_id = {APPLICATION_ID}",
)
#: what makes a file of version 1 one of version 2, and so on
UPGRADES: Final = (
    "ALTER TABLE dead_letters ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE records ADD COLUMN started_at REAL",
    _RATES,
    *_JOINS,
    # Until then AUTOINCREMENT counted, which only a new table is rid of.
    _LAST_GONE,
    "INSERT INTO last_gone SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'messages'",
    "DROP INDEX messages_by_rank",
    "ALTER TABLE messages RENAME TO counted_messages",
    _MESSAGES,
    "INSERT INTO messages SELECT * FROM counted_messages",
    "DROP TABLE counted_messages",
    _MESSAGES_BY_RANK,
    _NOTE_LAST_GONE,
)
VERSION: Final = 1 + len(UPGRADES)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of this release, where the file has not got them yet."""
    if connection.execute("PRAGMA user_version").fetchall() == [(VERSION,)]:
        return
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have been quicker.
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    for statement in _SCHEMA if version == 0 else UPGRADES[version - 1 :]:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
