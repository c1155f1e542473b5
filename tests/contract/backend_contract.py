"""What every result backend promises; see `dispatcher.backends.base`."""

from __future__ import annotations

import dataclasses
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dispatcher.backends import locks
from dispatcher.backends.base import ResultBackend, Revocation, TaskRecord, Write
from dispatcher.backends.joins import Join, JoinMissing
from dispatcher.backends.locks import Lock
from dispatcher.clock import SYSTEM
from dispatcher.exceptions import TimeoutError
from dispatcher.states import FAILURE, PENDING, RETRY, STARTED, SUCCESS
from tests.contract import children
from tests.contract.harness import Harness, Kind

DAY = 86_400.0


def make_write(harness: Harness[ResultBackend], task_id: str, **fields: Any) -> Write:
    """A first final write that lives a day, with fields changed."""
    defaults: dict[str, Any] = {
        "status": SUCCESS, "gen": 0, "attempt": 0, "retries": 0, "final": True, "token": "run-1",
        "expires_at": harness.clock.time() + DAY, "data": '{"result":1}',
    }  # fmt: skip
    return Write(task_id, **{**defaults, **fields})


class BackendContract:
    """Tests for one adapter; subclasses have a ``kind`` fixture that returns its `Kind`."""

    # Reading and writing

    def test_a_missing_record_is_absent(self, harness: Harness[ResultBackend]) -> None:
        """Reading an unknown id finds nothing; reading no id asks nothing."""
        backend = harness.open()
        assert backend.read([harness.task_id()]) == {}
        assert backend.read([]) == {}
        assert backend.write([]) == []

    def test_every_field_comes_back(self, harness: Harness[ResultBackend]) -> None:
        """What was written is read, also by another adapter on the store."""
        task_id = harness.task_id()
        write = make_write(
            harness, task_id, status="PROGRESS", gen=2, attempt=3, retries=4, final=False, token="token-é",
            starts=5, not_before=1_900_000_000.25, started_at=1_800_000_000.5,
            data='{"text":"Grüße, 世界, 🚀","n":[1,2.5,null]}',
        )  # fmt: skip
        assert harness.open().write([write]) == [None]
        assert harness.open().read([task_id]) == {task_id: write.record()}

    def test_every_field_of_a_batch_comes_back(self, harness: Harness[ResultBackend]) -> None:
        """Whether a write is the first of its record or replaces another, alone or among many."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(3)]
        for number, token in enumerate(("first", "second")):
            writes = [
                make_write(
                    harness, task_id, status="PROGRESS", gen=2, attempt=number, retries=number + 1, final=False,
                    token=token, starts=5, not_before=1_900_000_000.25, started_at=1_800_000_000.5, data=task_id,
                )
                for task_id in ids
            ]  # fmt: skip
            assert backend.write(writes) == [None] * 3
            assert backend.read(ids) == {write.id: write.record() for write in writes}

    def test_empty_fields_come_back(self, harness: Harness[ResultBackend]) -> None:
        """Absent times, empty texts and zeros stay what they are."""
        backend, task_id = harness.open(), harness.task_id()
        backend.write([make_write(harness, task_id, status=PENDING, final=False, token="", data="")])
        record = backend.read([task_id])[task_id]
        assert record == TaskRecord(task_id, PENDING)
        assert (record.final, record.revoked) == (False, False)

    @pytest.mark.parametrize("times", [(None, 7.5), (7.5, None), (None, None), (1.25, 2.5)])
    def test_times_are_kept_apart(
        self, harness: Harness[ResultBackend], times: tuple[float | None, float | None]
    ) -> None:
        """When a retry is due and when a run was started are two things; each write says both anew."""
        backend, task_id = harness.open(), harness.task_id()
        for token, (due, started) in {"one": (9.0, 9.5), "two": times}.items():
            write = make_write(harness, task_id, final=False, token=token, not_before=due, started_at=started)
            assert backend.write([write]) == [None]
        record = backend.read([task_id])[task_id]
        assert (record.not_before, record.started_at) == times

    def test_ids_may_be_any_text(self, harness: Harness[ResultBackend]) -> None:
        """Ids are chosen by users: spaces, colons, quotes and letters beyond ASCII are kept apart."""
        backend, stem = harness.open(), harness.task_id()
        ids = [stem + tail for tail in ("", " ", ":1", "'\"%", "é", "#", "{}", "*")]
        backend.write([make_write(harness, task_id, data=task_id) for task_id in ids])
        assert {key: record.data for key, record in backend.read(ids).items()} == {key: key for key in ids}

    def test_repeated_ids_are_read_once(self, harness: Harness[ResultBackend]) -> None:
        """Reading the same id twice in one call is no error."""
        backend, task_id = harness.open(), harness.task_id()
        backend.write([make_write(harness, task_id)])
        assert list(backend.read([task_id, harness.task_id(), task_id])) == [task_id]

    def test_large_data_comes_back(self, harness: Harness[ResultBackend]) -> None:
        """Data of the documented limit, or of a million bytes where there is none, is kept whole."""
        backend, task_id = harness.open(), harness.task_id()
        data = "0123456789abcdef" * 62_500
        data = data if backend.max_data is None else (data * 2)[: backend.max_data]
        assert backend.write([make_write(harness, task_id, data=data)]) == [None]
        assert backend.read([task_id])[task_id].data == data

    def test_large_batches_are_written_and_read(self, harness: Harness[ResultBackend]) -> None:
        """250 records in one call, more than a store may take in one round trip."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(250)]
        assert backend.write([make_write(harness, key, data=key) for key in ids]) == [None] * 250
        records = backend.read(ids)
        assert {key: record.data for key, record in records.items()} == {key: key for key in ids}

    # Conditions

    @pytest.mark.parametrize("final", [False, True])
    def test_a_write_applies_as_the_port_says(self, harness: Harness[ResultBackend], final: bool) -> None:
        """Every combination of generation, retries, finality and attempt ends as `Write.applies_to` decides."""
        backend = harness.open()
        table = itertools.product((0, 1, 2), (0, 1, 2), (False, True), (0, 1, 2), (0, 1, 2))
        before, after = [], []
        for gen, retries, was_final, write_gen, attempt in table:
            task_id = harness.task_id()
            before.append(
                make_write(harness, task_id, status=FAILURE if was_final else RETRY, gen=gen, attempt=9,
                           retries=retries, final=was_final, token="first", starts=1, data="first")
            )  # fmt: skip
            after.append(
                make_write(harness, task_id, status=SUCCESS if final else RETRY, gen=write_gen, attempt=attempt,
                           retries=attempt + 1, final=final, token="second", data="second")
            )  # fmt: skip
        assert backend.write(before) == [None] * len(before)
        expected = [
            None if new.applies_to(old.record()) else old.record() for old, new in zip(before, after, strict=True)
        ]
        assert backend.write(after) == expected
        records = backend.read([write.id for write in after])
        assert [records[write.id] for write in after] == [
            loser or new.record() for loser, new in zip(expected, after, strict=True)
        ]

    @pytest.mark.parametrize("alone", [True, False])
    def test_of_several_starts_one_is_the_only_one(self, harness: Harness[ResultBackend], alone: bool) -> None:
        """A start that asks to be the only one stands against others of its attempt, not of another generation."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(4)]
        _, started, older, unstarted = ids
        backend.write([make_write(harness, started, final=False, token="first", starts=1)])
        backend.write([make_write(harness, older, final=False, token="first", starts=1)])
        backend.write([make_write(harness, unstarted, final=False, token="first")])
        writes = [
            make_write(harness, key, final=False, token="second", starts=1, only_start=True, gen=int(key == older))
            for key in ids
        ]
        answers = [backend.write([write])[0] for write in writes] if alone else backend.write(writes)
        assert [answer and answer.token for answer in answers] == [None, "first", None, None]
        assert backend.write(writes)[0] is None, "its own repeat"
        assert backend.write([make_write(harness, started, starts=1)]) == [None], "the outcome of the one that started"

    def test_the_first_write_may_be_of_any_attempt(self, harness: Harness[ResultBackend]) -> None:
        """Where there is no record, every write applies."""
        backend = harness.open()
        writes = [make_write(harness, harness.task_id(), gen=g, attempt=a, retries=a) for g in (0, 7) for a in (0, 3)]
        assert backend.write(writes) == [None] * 4

    def test_a_generation_before_the_first(self, harness: Harness[ResultBackend]) -> None:
        """What is said of a message that could not be read, -1, closes nothing and stands against nothing newer."""
        backend, fresh, known = harness.open(), harness.task_id(), harness.task_id()
        unread = [make_write(harness, key, status=FAILURE, gen=-1, token="unread") for key in (fresh, known)]
        backend.write([make_write(harness, known)])
        assert [loser and loser.gen for loser in backend.write(unread)] == [None, 0]
        assert backend.read([fresh])[fresh] == unread[0].record()
        assert backend.write([unread[0]]) == [None]
        backend.revoke([fresh], harness.clock.time() + DAY)
        assert backend.write([make_write(harness, fresh)]) == [None]
        assert backend.read([fresh])[fresh] == make_write(harness, fresh).record(revoked=True)

    @pytest.mark.parametrize("guess", [None, False, True])
    def test_a_guess_decides_nothing(self, harness: Harness[ResultBackend], guess: bool | None) -> None:
        """Whether the caller thinks that the record exists changes no answer, right or wrong."""
        backend, known, unknown = harness.open(), harness.task_id(), harness.task_id()
        first = make_write(harness, known)
        backend.write([first])
        writes = [make_write(harness, key, token="late", exists=guess) for key in (known, unknown)]
        assert backend.write(writes) == [first.record(), None]
        newer = make_write(harness, known, gen=1, exists=guess)
        assert backend.write([newer]) == [None]

    def test_a_repeated_final_write_is_recognised(self, harness: Harness[ResultBackend]) -> None:
        """The store or the network may repeat our own write; another run's write is not ours."""
        backend, task_id = harness.open(), harness.task_id()
        write = make_write(harness, task_id)
        assert backend.write([write]) == [None]
        assert backend.write([write]) == [None]
        assert backend.write([write, write]) == [None, None]
        assert backend.write([dataclasses.replace(write, token="run-2")]) == [write.record()]

    def test_writes_of_one_task_apply_in_order(self, harness: Harness[ResultBackend]) -> None:
        """Each sees what the one before it left, in one call with other tasks' writes."""
        backend, first, second = harness.open(), harness.task_id(), harness.task_id()
        answers = backend.write(
            [
                make_write(harness, first, status=STARTED, final=False, starts=1),
                make_write(harness, second),
                make_write(harness, first, status=RETRY, final=False, retries=1),
                make_write(harness, first, status=FAILURE, token="stale"),
                make_write(harness, first, attempt=1, retries=1, token="good"),
                make_write(harness, second, token="other"),
            ]
        )
        assert [answer and answer.status for answer in answers] == [None, None, None, RETRY, None, SUCCESS]
        records = backend.read([first, second])
        assert (records[first].status, records[first].token, records[second].token) == (SUCCESS, "good", "run-1")

    def test_a_started_write_leaves_the_attempt_open(self, harness: Harness[ResultBackend]) -> None:
        """A record that is not final takes further writes of its attempt."""
        backend, task_id = harness.open(), harness.task_id()
        for starts in (1, 2, 3):
            write = make_write(harness, task_id, status=STARTED, final=False, starts=starts, token=f"run-{starts}")
            assert backend.write([write]) == [None]
        assert backend.read([task_id])[task_id].starts == 3

    def test_threads_write_once_per_attempt(self, harness: Harness[ResultBackend]) -> None:
        """Of eight threads that finish one attempt, one takes effect and the others learn who."""
        backend, task_id = harness.open(), harness.task_id()
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda n: backend.write([make_write(harness, task_id, token=f"run-{n}")])[0], range(8))
            )
        record = backend.read([task_id])[task_id]
        assert [f"run-{n}" for n, answer in enumerate(answers) if answer is None] == [record.token]
        assert [answer for answer in answers if answer is not None] == [record] * 7

    def test_processes_write_once_per_attempt(self, shared: Harness[ResultBackend]) -> None:
        """Of three processes that finish the same attempts, one takes effect for each."""
        backend, ids = shared.open(), [shared.task_id() for _ in range(40)]
        writers = [
            children.Child(
                children.write, shared.recipe, [make_write(shared, key, token=f"run-{n}") for key in ids]
            )
            for n in range(3)
        ]  # fmt: skip
        won = [writer.result() for writer in writers]
        records = backend.read(ids)
        for position, task_id in enumerate(ids):
            winners = [f"run-{n}" for n in range(3) if won[n][position]]
            assert winners == [records[task_id].token]

    # Several rows at once

    def test_writes_together_apply_all(self, harness: Harness[ResultBackend]) -> None:
        """A task's record and a lock change as one; repeated, they are recognised."""
        backend, task_id, key = harness.open(), harness.task_id(), harness.task_id()
        lock, now = Lock(key), harness.clock.time()
        pair = [make_write(harness, task_id), lock.with_claim("other", now + DAY, now).write(lock, now)]
        assert backend.write_together(pair) == [None, None]
        assert backend.read([task_id, pair[1].id]) == {write.id: write.record() for write in pair}
        assert backend.write_together(pair) == [None, None]

    @pytest.mark.parametrize("obstacle", [0, 1])
    def test_writes_together_apply_none(self, harness: Harness[ResultBackend], obstacle: int) -> None:
        """Where either row stands against it, neither is written, and the answer says which stood."""
        backend, ids = harness.open(), [harness.task_id(), harness.task_id()]
        known = make_write(harness, ids[obstacle], token="first")
        backend.write([known])
        answers = backend.write_together([make_write(harness, key, token="second") for key in ids])
        assert [answer and answer.token for answer in answers] == ["first" if n == obstacle else None for n in (0, 1)]
        assert backend.read(ids) == {known.id: known.record()}

    def test_writes_together_keep_the_flag_and_replace_what_expired(self, harness: Harness[ResultBackend]) -> None:
        """A revoked flag survives; a row that is past its time counts as absent, and its flag goes with it."""
        backend, revoked, expired = harness.open(), harness.task_id(), harness.task_id()
        now = harness.clock.time()
        backend.write([make_write(harness, expired, gen=5, expires_at=now + 1)])
        backend.revoke([expired], now + 1)
        backend.revoke([revoked], now + DAY)
        harness.clock.sleep(2.2)
        pair = [make_write(harness, key) for key in (revoked, expired)]
        assert backend.write_together(pair) == [None, None]
        assert backend.read([revoked, expired]) == {
            revoked: pair[0].record(revoked=True), expired: pair[1].record(),
        }  # fmt: skip

    def test_a_lock_comes_back(self, harness: Harness[ResultBackend]) -> None:
        """Every field of a lock is read as it was written; each change applies to the version it was made of."""
        backend, now, key = harness.open(), harness.clock.time(), f"app.tâsk: {harness.task_id()}"
        empty = locks.read(backend, key)
        assert empty == Lock(key)
        claimed = empty.with_claim("task-é", now + 5.25, now)
        leased = claimed.with_lease("task-é", "run", now + 30, now, sent=True)
        assert locks.swap(backend, empty, claimed, now) is None
        assert locks.swap(backend, empty, claimed.changed(now, owner="late"), now) == claimed
        assert locks.swap(backend, claimed, leased, now) is None
        assert locks.read(harness.open(), key) == leased

    def test_threads_take_turns_with_a_lock(self, harness: Harness[ResultBackend]) -> None:
        """Of eight threads that change one version, one does; fences grow from each to the next."""
        key, clock = harness.task_id(), harness.clock
        with ThreadPoolExecutor(8) as pool:
            fences = list(pool.map(lambda n: children.take_lock(harness.open(), clock, key, str(n)), range(8)))
        assert len(set(fences)) == 8
        assert locks.read(harness.open(), key).fence == max(fences)

    def test_processes_take_turns_with_a_lock(self, shared: Harness[ResultBackend]) -> None:
        """The same between processes: no two hold it at a time, and none is left behind."""
        key = shared.task_id()
        takers = [children.Child(children.take_lock_often, shared.recipe, key, str(n), 5) for n in range(3)]
        fences = [taker.result() for taker in takers]
        assert all(own == sorted(own) for own in fences)
        assert len({fence for own in fences for fence in own}) == 15
        assert locks.read(shared.open(), key).runner == ""

    # Revoking

    def test_revoking_an_unknown_task_makes_a_record(self, harness: Harness[ResultBackend]) -> None:
        """The flag waits for the message: a PENDING record of generation 0."""
        backend, task_id = harness.open(), harness.task_id()
        backend.revoke([task_id], harness.clock.time() + DAY)
        assert backend.read([task_id]) == {task_id: TaskRecord(task_id, PENDING, revoked=True)}

    def test_revoking_leaves_the_record_as_it_is(self, harness: Harness[ResultBackend]) -> None:
        """Only the flag changes; revoking twice is no error."""
        backend, task_id = harness.open(), harness.task_id()
        write = make_write(harness, task_id, gen=1, retries=2, starts=1, not_before=5.5)
        backend.write([write])
        for _ in range(2):
            backend.revoke([task_id], harness.clock.time() + DAY)
        assert backend.read([task_id])[task_id] == write.record(revoked=True)

    @pytest.mark.parametrize("gen", [0, 1])
    def test_the_flag_survives_writes(self, harness: Harness[ResultBackend], gen: int) -> None:
        """Writes of the same and of a newer generation keep it, and a write that is refused reports it."""
        backend, task_id = harness.open(), harness.task_id()
        backend.revoke([task_id], harness.clock.time() + DAY)
        first = make_write(harness, task_id, gen=gen, status=STARTED, final=False, starts=1)
        last = make_write(harness, task_id, gen=gen, token="last")
        assert backend.write([first, last]) == [None, None]
        assert backend.read([task_id])[task_id] == last.record(revoked=True)
        assert backend.write([make_write(harness, task_id, gen=gen, token="other")]) == [last.record(revoked=True)]

    def test_a_flag_takes_no_termination_back(self, harness: Harness[ResultBackend]) -> None:
        """A termination is kept by later flags and writes, replaces a flag, and may change its signal."""
        backend, task_id = harness.open(), harness.task_id()
        until = harness.clock.time() + DAY
        for asked, kept in (("FLAG", 1), ("TERM", 2), ("FLAG", 2), ("KILL", 3), ("TERM", 2), ("FLAG", 2)):
            backend.revoke([task_id], until, Revocation[asked])
            assert backend.read([task_id])[task_id].revoked == kept
        write = make_write(harness, task_id, status=STARTED, final=False)
        assert backend.write([write]) == [None]
        assert backend.read([task_id])[task_id] == write.record(revoked=Revocation.TERM)
        backend.revoke([task_id], harness.clock.time() + 1)  # a row that lives longer keeps both
        assert backend.read([task_id])[task_id].revoked == Revocation.TERM

    def test_many_tasks_are_revoked_in_one_call(self, harness: Harness[ResultBackend]) -> None:
        """More than a store may take in one round trip; no ids are no error."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(130)]
        backend.revoke([], harness.clock.time() + DAY)
        backend.revoke(ids, harness.clock.time() + DAY)
        assert all(record.revoked for record in backend.read(ids).values())
        assert len(backend.read(ids)) == 130

    def test_revoking_lengthens_a_life_and_never_shortens_it(self, harness: Harness[ResultBackend]) -> None:
        """The row lives at least as long as the flag asks and as it would have lived anyway."""
        backend, short, long = harness.open(), harness.task_id(), harness.task_id()
        now = harness.clock.time()
        backend.write([make_write(harness, short, expires_at=now + 2), make_write(harness, long, expires_at=now + DAY)])
        backend.revoke([short], now + DAY)
        backend.revoke([long], now + 2)
        harness.clock.sleep(3.2)
        assert sorted(backend.read([short, long])) == sorted([short, long])

    # Forgetting and expiry

    def test_a_forgotten_record_is_gone(self, harness: Harness[ResultBackend]) -> None:
        """Only the named records go; an unknown id is no error; a new write starts afresh."""
        backend, ids = harness.open(), [harness.task_id() for _ in range(3)]
        backend.write([make_write(harness, task_id) for task_id in ids])
        backend.forget([])
        backend.forget([ids[0], ids[1], harness.task_id()])
        assert list(backend.read(ids)) == [ids[2]]
        assert backend.write([make_write(harness, ids[0], token="new")]) == [None]

    def test_an_expired_record_is_absent(self, harness: Harness[ResultBackend]) -> None:
        """It is not read, does not stand against a write, and its revoked flag is gone with it."""
        backend, dead, alive = harness.open(), harness.task_id(), harness.task_id()
        now = harness.clock.time()
        backend.write([make_write(harness, dead, gen=3, expires_at=now + 2), make_write(harness, alive)])
        backend.revoke([dead], now + 2)
        assert sorted(backend.read([dead, alive])) == sorted([dead, alive])
        harness.clock.sleep(3.2)
        assert list(backend.read([dead, alive])) == [alive]
        write = make_write(harness, dead, token="new")
        assert backend.write([write]) == [None]
        assert backend.read([dead])[dead] == write.record()

    def test_a_record_read_after_expiry_can_be_revoked_anew(self, harness: Harness[ResultBackend]) -> None:
        """Revoking an expired record makes a new one."""
        backend, task_id = harness.open(), harness.task_id()
        backend.write([make_write(harness, task_id, expires_at=harness.clock.time() + 1)])
        harness.clock.sleep(2.2)
        backend.revoke([task_id], harness.clock.time() + DAY)
        assert backend.read([task_id]) == {task_id: TaskRecord(task_id, PENDING, revoked=True)}

    # Waiting

    def test_waiting_returns_a_final_record_at_once(self, harness: Harness[ResultBackend]) -> None:
        """No time passes when the result is there."""
        backend, task_id = harness.open(), harness.task_id()
        write = make_write(harness, task_id)
        backend.write([write])
        assert backend.wait(task_id, timeout=0) == write.record()

    def test_waiting_ends_with_the_timeout(self, harness: Harness[ResultBackend]) -> None:
        """A record that is not final is no result; the error names the task."""
        backend, task_id = harness.open(), harness.task_id()
        backend.write([make_write(harness, task_id, status=STARTED, final=False)])
        for key in (task_id, harness.task_id()):
            with pytest.raises(TimeoutError, match=key):
                backend.wait(key, timeout=0.2)

    def test_waiting_calls_back_between_looks(self, harness: Harness[ResultBackend]) -> None:
        """The caller's function runs while there is no result, and may end the wait by raising."""
        backend, calls = harness.open(), []

        def on_interval() -> None:
            calls.append(1)
            if len(calls) == 3:
                raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            backend.wait(harness.task_id(), timeout=30, interval=0.01, on_interval=on_interval)

    def test_waiting_sees_another_thread(self, kind: Kind) -> None:
        """A result that another thread writes ends the wait."""
        real = Harness[ResultBackend](kind, SYSTEM)
        backend, task_id = real.open(), real.task_id()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(backend.wait, task_id, 30.0)
            backend.write([make_write(real, task_id, status=STARTED, final=False)])
            backend.write([make_write(real, task_id)])
            assert waiting.result(40).status == SUCCESS
        real.close()

    def test_waiting_sees_another_process(self, shared: Harness[ResultBackend]) -> None:
        """A result that another process writes ends the wait."""
        backend, task_id = shared.open(), shared.task_id()
        child = children.Child(children.write, shared.recipe, [make_write(shared, task_id)])
        assert backend.wait(task_id, timeout=60.0).status == SUCCESS
        assert child.result() == [True]

    # Rate limits

    def test_slots_follow_each_other(self, harness: Harness[ResultBackend]) -> None:
        """Each call gets the next ones, an interval apart, the first at once; buckets do not know each other."""
        backend, bucket, now = harness.open(), harness.task_id(), harness.clock.time()
        slots = backend.reserve(bucket, 3, 10.0) + harness.open().reserve(bucket, 2, 10.0)
        assert now - 1e-5 <= slots[0] <= harness.clock.time()
        assert [round(slot - slots[0], 4) for slot in slots] == [0, 10, 20, 30, 40]
        [other] = backend.reserve(harness.task_id(), 1, 10.0)
        assert other < slots[1]

    def test_a_bucket_at_rest_fills_to_its_burst(self, harness: Harness[ResultBackend]) -> None:
        """However long nobody asked, so many may start at once, and the next have to wait."""
        backend, bucket = harness.open(), harness.task_id()
        backend.reserve(bucket, 2, 0.1, 3)
        harness.clock.sleep(1.0)
        slots, now = backend.reserve(bucket, 5, 0.1, 3), harness.clock.time()
        assert [slot <= now for slot in slots[:3]] == [True] * 3
        assert slots[3] > now - 0.5
        assert [round(later - slot, 4) for slot, later in itertools.pairwise(slots)] == [0.1] * 4

    def test_slots_that_are_too_late_are_not_taken(self, harness: Harness[ResultBackend]) -> None:
        """Of what would be after ``latest`` nothing is taken, and whoever has time gets it."""
        backend, bucket = harness.open(), harness.task_id()
        slots = backend.reserve(bucket, 6, 10.0, latest=harness.clock.time() + 35.0)
        first = slots[0]
        assert slots == pytest.approx([first, first + 10, first + 20, first + 30])
        assert backend.reserve(bucket, 1, 10.0, latest=first + 39.0) == []
        assert harness.open().reserve(bucket, 1, 10.0, latest=first + 39.0) == []
        assert harness.open().reserve(bucket, 3, 10.0, latest=first + 50.5) == pytest.approx([first + 40, first + 50])
        assert backend.reserve(bucket, 2, 10.0, latest=first + 60.5) == pytest.approx([first + 60])
        assert backend.reserve(bucket, 1, 10.0) == pytest.approx([first + 70])

    def test_threads_get_every_slot_once(self, harness: Harness[ResultBackend]) -> None:
        """Of eight threads that reserve in batches, none gets another's slot, and no slot is left out."""
        bucket, backends = harness.task_id(), [harness.open() for _ in range(8)]

        def take(backend: ResultBackend) -> list[float]:
            return [slot for size in (1, 2, 3) for slot in backend.reserve(bucket, size, 100.0)]

        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(take, backends))
        assert all(slots == sorted(slots) for slots in taken)
        slots = sorted(itertools.chain(*taken))
        assert [round(slot - slots[0], 3) for slot in slots] == [100.0 * number for number in range(48)]

    def test_processes_never_exceed_the_rate(self, shared: Harness[ResultBackend]) -> None:
        """Of what three processes reserve while time passes, no window holds more than burst and rate allow.

        That follows from slots an interval apart, of which none is older than a burst when it is reserved.
        """
        bucket, interval, burst = shared.task_id(), 0.02, 2
        takers = [children.Child(children.reserve, shared.recipe, bucket, interval, burst) for _ in range(3)]
        taken = sorted(itertools.chain(*(taker.result() for taker in takers)))
        assert len(taken) == 90
        assert all(later - slot > interval - 1e-5 for (slot, _), (later, _) in itertools.pairwise(taken))
        assert all(slot >= asked - (burst - 1) * interval - 1e-5 for slot, asked in taken)

    # Connections

    def test_a_closed_backend_opens_again(self, harness: Harness[ResultBackend]) -> None:
        """Records outlive the connection; closing twice is no error."""
        backend, task_id = harness.open(), harness.task_id()
        backend.write([make_write(harness, task_id)])
        backend.close()
        backend.close()
        assert list(backend.read([task_id])) == [task_id]

    def test_a_backend_used_before_a_fork_works_on_both_sides(self, shared: Harness[ResultBackend]) -> None:
        """Parent and child do not disturb each other's connection."""
        backend, mine, theirs = shared.open(), shared.task_id(), shared.task_id()
        backend.write([make_write(shared, mine)])
        child = children.Child(
            children.use_inherited_backend, backend, make_write(shared, theirs), mine, method="fork"
        )  # fmt: skip
        assert child.result() == sorted([mine, theirs])
        assert sorted(backend.read([mine, theirs])) == sorted([mine, theirs])

    # Joins

    def test_a_join_is_complete_when_every_member_is_marked(self, harness: Harness[ResultBackend]) -> None:
        """In any order and however often each is marked; only then it is returned, with what was kept."""
        backend, join_id, life = harness.open(), harness.task_id(), harness.clock.time() + DAY
        join = Join(join_id, 250, '{"then":["é"]}')
        backend.open_join(join, life)
        backend.open_join(dataclasses.replace(join, size=1, body="other"), life)  # a repeated opening changes nothing
        order = [(7 * n) % 250 for n in range(250)]
        for index in order[:-1]:
            assert backend.mark_joined(join_id, [index], 250, life) is None
        assert backend.mark_joined(join_id, [order[0]], 250, life) is None
        assert backend.mark_joined(join_id, [order[-1]], 250, life) == join
        assert backend.mark_joined(join_id, [order[3]], 250, life) == join, "a late duplicate finds it complete"

    def test_members_are_marked_together(self, harness: Harness[ResultBackend]) -> None:
        """Those of a batch in one call, some of them marked before or named twice."""
        backend, join_id, life = harness.open(), harness.task_id(), harness.clock.time() + DAY
        join = Join(join_id, 250, "{}")
        backend.open_join(join, life)
        assert backend.mark_joined(join_id, range(95, 105), 250, life) is None
        assert backend.mark_joined(join_id, [*range(101), 0, 0], 250, life) is None
        assert backend.mark_joined(join_id, range(106, 250), 250, life) is None
        assert backend.mark_joined(join_id, [249, 105], 250, life) == join

    def test_flags_of_a_join_stay(self, harness: Harness[ResultBackend]) -> None:
        """Closing returns the join as it was before, so that one caller knows that it was the first."""
        backend, join_id, life = harness.open(), harness.task_id(), harness.clock.time() + DAY
        join = Join(join_id, 1, "{}")
        backend.open_join(join, life)
        assert backend.close_join(join_id, fired=True) == join
        assert backend.close_join(join_id, failed="1e5") == dataclasses.replace(join, fired=True)
        closed = dataclasses.replace(join, fired=True, failed="1e5")
        assert backend.close_join(join_id, fired=True) == closed
        assert backend.close_join(join_id, failed="another") == closed, "the first one stays"
        assert backend.mark_joined(join_id, [0], 1, life) == closed

    def test_a_join_that_is_gone_is_no_join(self, harness: Harness[ResultBackend]) -> None:
        """The last member of a join that nobody opened, or that is gone, is an error, as is closing it."""
        backend = harness.open()
        with pytest.raises(JoinMissing):
            backend.mark_joined(harness.task_id(), [0], 1, harness.clock.time() + DAY)
        with pytest.raises(JoinMissing):
            backend.close_join(harness.task_id(), fired=True)

    def test_joins_are_read_in_batches(self, harness: Harness[ResultBackend]) -> None:
        """As they are, many in a call; those that are not there are left out."""
        backend, life = harness.open(), harness.clock.time() + DAY
        joins = {id: Join(id, 3, f'["é{number}"]') for number, id in enumerate(harness.task_id() for _ in range(120))}
        for join in joins.values():
            backend.open_join(join, life)
        assert backend.read_joins([harness.task_id(), *joins]) == joins
        assert backend.read_joins([]) == {}
        first, second = list(joins)[:2]
        backend.close_join(first, failed="é")
        backend.mark_joined(second, [1], 3, life)
        closed = dataclasses.replace(joins[first], failed="é")
        assert backend.read_joins([first, second]) == {first: closed, second: joins[second]}

    def test_a_join_and_records_are_kept_longer_and_never_shorter(self, harness: Harness[ResultBackend]) -> None:
        """As long as was asked for once, also with marks that ask for less; members that end then are kept as well."""
        backend, join_id, now = harness.open(), harness.task_id(), harness.clock.time()
        ended, ends, long, short = (harness.task_id() for _ in range(4))
        short_writes = [make_write(harness, task_id, expires_at=now + 2) for task_id in (ended, ends, short)]
        backend.write([*short_writes, make_write(harness, long)])
        join = Join(join_id, 150, "{}")
        backend.open_join(join, now + 2)
        assert backend.mark_joined(join_id, range(100), 150, now + 2, [ended]) is None
        backend.prolong_join(join_id, now + DAY / 2)
        backend.prolong([ended, long, unknown := harness.task_id()], now + DAY / 2)
        backend.prolong_join(unknown, now + DAY)
        backend.prolong_join(join_id, now + 2)
        assert backend.mark_joined(join_id, range(100, 149), 150, now + 2, [ends]) is None
        found = backend.read_joins([join_id, unknown])
        assert found == {join_id: join}
        assert abs(found[join_id].until - now - DAY / 2) < 60
        harness.clock.sleep(3.2)
        assert sorted(backend.read([ended, ends, long, short, unknown])) == sorted([ended, ends, long])
        assert backend.mark_joined(join_id, [149], 150, now + 5) == join

    def test_threads_complete_a_join(self, harness: Harness[ResultBackend]) -> None:
        """Of members that end at the same time, each twice, at least one sees the join complete."""
        backend, join_id, life = harness.open(), harness.task_id(), harness.clock.time() + DAY
        backend.open_join(Join(join_id, 40, "{}"), life)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: backend.mark_joined(join_id, [n // 2], 40, life), range(80)))
        assert any(answer is not None for answer in answers)
