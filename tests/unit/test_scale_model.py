"""The model of AWS that `python -m benchmarks scale` runs the handler on: what limits it, and that nothing is lost."""

from __future__ import annotations

import dataclasses
import time

import pytest

from benchmarks.scale import facts
from benchmarks.scale.command import _FULL, Kept, _runs
from benchmarks.scale.dynamodb import DynamoDB, Partitions
from benchmarks.scale.fleet import Account, Fleet
from benchmarks.scale.mapping import Mapping, MappingSettings
from benchmarks.scale.model import Prediction, Setup, predict
from benchmarks.scale.sqs import SQS, Message, Queue
from benchmarks.scale.timeline import Timeline
from benchmarks.scale.workloads import WORKLOADS


def at_once(name: str, setup: Setup) -> Prediction:
    """Predict a workload all of which is sent at the beginning."""
    return predict(dataclasses.replace(WORKLOADS[name], share=1e-6), setup)


def contended() -> Prediction:
    """Predict 3,000 calls of one key in a second."""
    return predict(dataclasses.replace(WORKLOADS["hot"], share=1 / 60), Setup(3_000))


def test_a_seed_says_everything() -> None:
    """The same seed gives the same figures, to the last one."""
    assert at_once("mixed", Setup(300, seed=7)) == at_once("mixed", Setup(300, seed=7))


def test_a_seed_says_where_rows_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ids decide on which partition that is, and so what is throttled: the same each time."""
    monkeypatch.setattr(facts, "PARTITION_WRITES", 50)
    first, second = (at_once("results", Setup(1_000, concurrency=100, warm_writes=200)) for _ in range(2))
    assert first.throttled_writes > 0
    assert first == second


def test_time_is_virtual() -> None:
    """An hour's work takes no hour, and the real clock is back afterwards."""
    before = time.time()
    found = at_once("slow", Setup(300, concurrency=2))
    assert found.drained_after == pytest.approx(150, rel=0.1)  # 300 s of work, two batches at a time
    assert abs(time.time() - before) < 60


@pytest.mark.parametrize("name", ["lean", "results", "retries", "unique", "hot", "limited", "burst"])
def test_every_task_runs_to_its_end(name: str) -> None:
    """The model itself raises where a task was lost; what is handed back is received again."""
    found = predict(WORKLOADS[name], Setup(200))
    assert found.tasks == 200
    assert found.given_up == 0


def test_what_is_kept_is_what_a_full_run_predicts() -> None:
    """The page shows every run of `--full`, and no other."""
    assert set(Kept.read().predictions) == set(_runs(list(WORKLOADS), _FULL))


def test_a_lost_task_is_noticed_though_another_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message in fifty is dropped and another one doubled, so as many tasks run as were sent."""
    send = SQS.send_message_batch

    def loses(sqs: SQS, QueueUrl: str, Entries: list[dict[str, str]]) -> object:  # noqa: N803
        if sqs.calls["SendMessageBatch"] % 5 == 0:
            Entries = [Entries[1], *Entries[1:]]  # noqa: N806
        return send(sqs, QueueUrl, Entries)

    monkeypatch.setattr(SQS, "send_message_batch", loses)
    with pytest.raises(RuntimeError, match="4 of 200 tasks did not run"):
        at_once("lean", Setup(200))


def test_a_dead_letter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that gives a message up fails the run, though the task had run by then."""
    take = Queue.take

    def gives_up(queue: Queue, limit: int) -> list[Message]:
        queue.given_up = 1
        return take(queue, limit)

    monkeypatch.setattr(Queue, "take", gives_up)
    with pytest.raises(RuntimeError, match="1 messages became dead letters"):
        at_once("lean", Setup(20))


def test_a_key_that_too_many_claim_refuses_calls() -> None:
    """Calls of one key beyond a partition's writes a second are throttled, and what waits too long is told so."""
    found = contended()
    assert found.hot_key.startswith("LOCK#")
    assert 0.9 * facts.PARTITION_WRITES < found.hot_writes <= facts.PARTITION_WRITES
    assert found.throttled_writes > found.refused > 0
    assert found.limit == "the key LOCK#…"


def test_a_chord_of_a_thousand_ends_in_its_body() -> None:
    """Members are marked in shards, and the body is one more message."""
    found = at_once("chords", Setup(1_000))
    assert found.calls["sqs:SendMessageBatch"] == 102  # the launch, its members in tens, and the body
    assert found.hot_key.startswith("CHORD#")


def test_the_account_bounds_what_runs_at_once() -> None:
    """Invocations beyond its concurrency are throttled, and their messages run all the same."""
    found = at_once("slow", Setup(400, concurrency=100, account=3))
    assert found.most_concurrent == 3
    assert found.throttled_invocations > 0
    assert found.limit == "the account's concurrency"


def test_a_mapping_adds_three_hundred_batches_a_minute() -> None:
    """It starts with five; a backlog of long tasks has it at about 55 ten seconds later."""
    timeline = Timeline()
    sqs = SQS(timeline, ["default"], 900, 10)
    queue = sqs.queues["default"]

    def takes_long(records: object) -> dict[str, list[dict[str, str]]]:
        timeline.sleep(600)
        return {"batchItemFailures": []}

    mapping = Mapping(timeline, sqs, queue, Fleet(timeline, Account()), takes_long, MappingSettings())
    sqs.send_message_batch(queue.url, [{"Id": "0", "MessageBody": "x"}] * 5_000)
    mapping.start()
    began = timeline.now
    timeline.run(lambda: timeline.now >= began + 10)
    assert mapping.usage.most_batches == pytest.approx(5 + 10 * facts.MORE_BATCHES_A_MINUTE / 60, abs=2)


def test_a_queue_hands_out_no_more_than_may_be_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many received and not deleted a receive finds nothing, and finds more once one is deleted."""
    monkeypatch.setattr(facts, "IN_FLIGHT", 12)
    timeline = Timeline()
    sqs = SQS(timeline, ["default"], 900, 10)
    queue = sqs.queues["default"]
    sqs.send_message_batch(queue.url, [{"Id": "0", "MessageBody": "x"}] * 20)
    timeline.run(lambda: queue.ready == 20)
    first = [queue.take(10), queue.take(10)]
    assert [len(each) for each in first] == [10, 2]
    assert queue.take(10) == []
    queue.delete(first[0][:1])
    assert len(queue.take(10)) == 1


def test_groups_of_a_fifo_queue_keep_their_order() -> None:
    """A group's next messages come once those that were received are done with."""
    timeline = Timeline()
    sqs = SQS(timeline, ["one.fifo"], 900, 10)
    queue = sqs.queues["one.fifo"]
    for group in "aab":
        sqs.send_message_batch(queue.url, [{"Id": "0", "MessageBody": group, "MessageGroupId": group}])
    timeline.run(lambda: queue.ready == 2)
    (first,) = queue.take(1)
    assert [message.body for message in queue.take(10)] == ["b"]
    queue.delete([first])
    assert [message.body for message in queue.take(10)] == ["a"]


def test_a_key_takes_a_partition_s_writes_a_second() -> None:
    """The thousandth and first write of a second to a join's item is throttled, as the SDK sees it: tried again."""
    timeline = Timeline()
    dynamodb = DynamoDB(timeline, Partitions(timeline))
    second = int(timeline.now)
    key = {"pk": {"S": "CHORD#1"}, "sk": {"S": "META"}}
    for _ in range(facts.PARTITION_WRITES + 1):
        with timeline.aside():
            dynamodb.update_item(Key=key, UpdateExpression="SET n = :n", ExpressionAttributeValues={":n": {"N": "1"}})
    assert dynamodb.partitions.throttled["write"] >= 1
    assert dynamodb.partitions.seconds[second] == facts.PARTITION_WRITES
    assert dynamodb.partitions.hottest() == ("CHORD#1", facts.PARTITION_WRITES)


def test_a_small_table_slows_results_and_loses_none() -> None:
    """With the capacity of one partition the handler waits, hands back and records everything in the end."""
    setup = Setup(3_000, concurrency=100, warm_writes=1_000)
    found = at_once("results", setup)
    assert found.most_writes <= facts.PARTITION_WRITES
    assert found.throttled_writes > 0
    assert found.write_units >= found.tasks
