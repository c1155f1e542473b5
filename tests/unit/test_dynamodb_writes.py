"""How the DynamoDB backend writes and reads, beneath botocore: calls, guesses, throttles, repeats, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher import aws
from dispatcher.aws_options import ClientSettings, Credentials
from dispatcher.backends.base import TaskRecord, Write
from dispatcher.backends.dynamodb import DynamoDBBackend
from dispatcher.backends.dynamodb_items import COLUMNS, key, values
from dispatcher.clock import ManualClock
from dispatcher.exceptions import BackendStoreError, ImproperlyConfigured, OperationalError, UnsupportedOption
from tests.unit.aws_wire import Refused, Wire

ONCE = {"retries": {"total_max_attempts": 1, "mode": "standard"}}
OPTIONS: dict[str, Any] = {
    "region": "ca-central-1", "access_key_id": "AKID", "secret_access_key": "secret", "client-config": ONCE,
}  # fmt: skip


@pytest.fixture
def backend() -> DynamoDBBackend:
    """A backend on a clock that only it moves."""
    return DynamoDBBackend("dynamodb://results", OPTIONS, ManualClock())


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Answers for that backend's client."""
    keys = Credentials("AKID", "secret")
    wire = Wire(aws.client("dynamodb", ClientSettings("ca-central-1", credentials=keys, config=tuple(ONCE.items()))))
    yield wire
    wire.close()


def make(number: int = 0, **fields: Any) -> Write:
    """A final first write of task t0, t1 …"""
    defaults: dict[str, Any] = {
        "status": "SUCCESS", "gen": 0, "attempt": 0, "retries": 0, "final": True, "token": "run-1",
        "expires_at": 1_800_086_400.0, "data": "{}",
    }  # fmt: skip
    return Write(f"t{number}", **{**defaults, **fields})


def item(write: Write, **more: Any) -> dict[str, Any]:
    """The item that a write leaves."""
    return {**key(write.id), **dict(zip(COLUMNS, values(write), strict=True)), **more}


def failed(code: str, found: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer to a statement that failed."""
    return {"Error": {"Code": code, "Message": "no", **({} if found is None else {"Item": found})}}


# Calls


def test_one_write_is_one_update(backend: DynamoDBBackend, wire: Wire) -> None:
    """An upsert with its condition in a single call."""
    wire.script("UpdateItem", {})
    assert backend.write([make()]) == [None]
    (call,) = wire.of("UpdateItem")
    assert call["Key"] == {"pk": {"S": "TASK#t0"}, "sk": {"S": "META"}}
    assert call["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
    assert wire.operations == ["UpdateItem"]


def test_ten_writes_are_one_call(backend: DynamoDBBackend, wire: Wire) -> None:
    """First attempts are inserted, later ones updated; what the caller has seen wins."""
    wire.script("BatchExecuteStatement", {"Responses": [{}] * 4})
    writes = [make(0), make(1, attempt=1, retries=1), make(2, exists=True), make(3, attempt=2, exists=False)]
    assert backend.write(writes) == [None] * 4
    (call,) = wire.of("BatchExecuteStatement")
    verbs = [statement["Statement"].split()[0] for statement in call["Statements"]]
    assert verbs == ["INSERT", "UPDATE", "UPDATE", "INSERT"]
    assert wire.operations == ["BatchExecuteStatement"]


def test_many_writes_go_25_at_a_time(backend: DynamoDBBackend, wire: Wire) -> None:
    """60 outcomes take three calls."""
    wire.on("BatchExecuteStatement", lambda p: {"Responses": [{}] * len(p["Statements"])})
    assert backend.write([make(n) for n in range(60)]) == [None] * 60
    assert sorted(len(call["Statements"]) for call in wire.of("BatchExecuteStatement")) == [10, 25, 25]


def test_a_wrong_guess_costs_one_more_call(backend: DynamoDBBackend, wire: Wire) -> None:
    """An INSERT that finds a row, or an UPDATE that finds none, is done again as an upsert."""
    wire.script("BatchExecuteStatement", {"Responses": [{}, failed("DuplicateItem"), failed("ConditionalCheckFailed")]})
    wire.script("UpdateItem", {})
    assert backend.write([make(0), make(1), make(2, exists=True)]) == [None] * 3
    assert sorted(call["Key"]["pk"]["S"] for call in wire.of("UpdateItem")) == ["TASK#t1", "TASK#t2"]


def test_who_stands_against_an_update_is_known_at_once(backend: DynamoDBBackend, wire: Wire) -> None:
    """The failed statement brings the row: no second call."""
    winner = make(1, attempt=1, token="other")
    wire.script("BatchExecuteStatement", {"Responses": [{}, failed("ConditionalCheckFailed", item(winner))]})
    assert backend.write([make(0), make(1, attempt=1, exists=True)]) == [None, winner.record()]
    assert wire.operations == ["BatchExecuteStatement"]


def test_an_older_generation_is_replaced_by_an_upsert(backend: DynamoDBBackend, wire: Wire) -> None:
    """The statement's condition names one generation; the row says that the write applies all the same."""
    older = make(1, gen=0)
    wire.script("BatchExecuteStatement", {"Responses": [{}, failed("ConditionalCheckFailed", item(older))]})
    wire.script("UpdateItem", {})
    assert backend.write([make(0), make(1, gen=1)]) == [None, None]


def test_an_expired_row_is_replaced_with_its_flag(backend: DynamoDBBackend, wire: Wire) -> None:
    """DynamoDB deletes days late: the row counts as absent, and its revoked flag goes with it."""
    expired = item(make(expires_at=backend.clock.time() - 1), v={"N": "1"})
    refusal = Refused("ConditionalCheckFailedException", Item=expired)
    wire.script("UpdateItem", refusal, {})
    assert backend.write([make()]) == [None]
    first, second = wire.of("UpdateItem")
    assert "REMOVE v" not in first["UpdateExpression"]
    assert "REMOVE v" in second["UpdateExpression"]


@pytest.mark.parametrize("final", [True, False])
def test_our_own_write_repeated_by_the_sdk_took_effect(backend: DynamoDBBackend, wire: Wire, final: bool) -> None:
    """The answer was lost, botocore asked again: what stands against the write is the write itself."""
    write = make(status="SUCCESS" if final else "RETRY", final=final, retries=0 if final else 1)
    wire.script("UpdateItem", Refused("ConditionalCheckFailedException", Item=item(write)))
    assert backend.write([write]) == [None]
    other = dataclasses.replace(write, token="run-2")
    assert backend.write([other]) == [write.record()]


def test_writes_of_one_task_keep_their_order(backend: DynamoDBBackend, wire: Wire) -> None:
    """The second write of a task goes once the first is answered."""
    wire.on("BatchExecuteStatement", lambda p: {"Responses": [{}] * len(p["Statements"])})
    wire.script("UpdateItem", {})
    backend.write([make(0, final=False, status="STARTED"), make(1), make(0)])
    assert wire.operations == ["BatchExecuteStatement", "UpdateItem"]


# Throttles and errors


def test_throttled_statements_are_repeated_alone(backend: DynamoDBBackend, wire: Wire) -> None:
    """After a pause, and only those."""
    before = backend.clock.monotonic()
    wire.script(
        "BatchExecuteStatement",
        {"Responses": [{}, failed("ThrottlingError"), failed("ProvisionedThroughputExceeded")]},
        {"Responses": [{}, failed("RequestLimitExceeded")]},
        {"Responses": [{}]},
    )
    assert backend.write([make(n) for n in range(3)]) == [None] * 3
    assert [len(call["Statements"]) for call in wire.of("BatchExecuteStatement")] == [3, 2, 1]
    assert backend.clock.monotonic() > before


def test_throttling_ends_with_the_patience(wire: Wire) -> None:
    """retry_timeout bounds the whole, and the error names it."""
    clock = ManualClock()
    backend = DynamoDBBackend("dynamodb://results", {**OPTIONS, "retry_timeout": 3}, clock)
    wire.on("BatchExecuteStatement", lambda p: {"Responses": [failed("ThrottlingError")] * len(p["Statements"])})
    start = clock.time()
    with pytest.raises(OperationalError, match="no capacity to write within 3 s"):
        backend.write([make(0), make(1)])
    assert clock.time() - start == pytest.approx(3.0)


def test_other_errors_of_a_statement_are_raised(backend: DynamoDBBackend, wire: Wire) -> None:
    """They name the task."""
    wire.script("BatchExecuteStatement", {"Responses": [{}, failed("AccessDenied")]})
    with pytest.raises(OperationalError, match=r"task t1.*AccessDenied"):
        backend.write([make(0), make(1)])


def test_unprocessed_keys_are_asked_for_again(backend: DynamoDBBackend, wire: Wire) -> None:
    """BatchGetItem may leave keys out for want of capacity or room."""
    left = {"results": {"Keys": [key("t1")], "ConsistentRead": True}}
    wire.script(
        "BatchGetItem",
        {"Responses": {"results": [item(make(0))]}, "UnprocessedKeys": left},
        {"Responses": {"results": [item(make(1))]}, "UnprocessedKeys": {}},
    )
    assert sorted(backend.read(["t0", "t1", "t2"])) == ["t0", "t1"]
    assert wire.of("BatchGetItem")[1]["RequestItems"] == left


def test_reads_are_strongly_consistent_and_100_at_a_time(backend: DynamoDBBackend, wire: Wire) -> None:
    """One key by GetItem, more by BatchGetItem; rows past their end are hidden."""
    wire.script("GetItem", {"Item": item(make(0, expires_at=backend.clock.time()))})
    assert backend.read(["t0"]) == {}
    wire.script("BatchGetItem", {"Responses": {}})
    backend.read([f"t{n}" for n in range(250)])
    calls = [call["RequestItems"]["results"] for call in wire.of("BatchGetItem")]
    assert sorted(len(call["Keys"]) for call in calls) == [50, 100, 100]
    assert all(call["ConsistentRead"] for call in [*calls, *wire.of("GetItem")])


def test_a_result_too_large_is_refused_before_anything_is_written(backend: DynamoDBBackend, wire: Wire) -> None:
    """An item has 400 KB, names and key included; the error says what to do."""
    large = make(1, data="é" * (backend.max_data // 2 + 1))
    with pytest.raises(BackendStoreError, match=r"task t1 has 40\d,\d{3} bytes.*return a reference") as caught:
        backend.write([make(0), large])
    assert (caught.value.task_id, caught.value.state) == ("t1", "SUCCESS")
    with pytest.raises(BackendStoreError, match="too long"):
        backend.write([dataclasses.replace(make(), id="x" * 2_048)])
    assert wire.calls == []


# Revoking and forgetting


def test_revoking_lengthens_or_leaves_the_life_of_a_row(backend: DynamoDBBackend, wire: Wire) -> None:
    """A row that lives longer keeps its time; one more call sets the flag."""
    wire.script("UpdateItem", Refused("ConditionalCheckFailedException", Item=item(make())), {})
    backend.revoke(["t0"], backend.clock.time() + 10)
    first, second = wire.of("UpdateItem")
    assert "if_not_exists" in first["UpdateExpression"]
    assert second["UpdateExpression"] == "SET v = if_not_exists(v, :v)"


def test_forgetting_repeats_what_was_left_out(backend: DynamoDBBackend, wire: Wire) -> None:
    """25 at a time; a repeated id once."""
    left = {"results": [{"DeleteRequest": {"Key": key("t3")}}]}
    wire.script("BatchWriteItem", {"UnprocessedItems": left}, {"UnprocessedItems": {}})
    backend.forget([f"t{n}" for n in range(20)] * 2)
    assert [len(call["RequestItems"]["results"]) for call in wire.of("BatchWriteItem")] == [20, 1]


# The table


def test_a_missing_table_on_aws_is_a_clear_error(backend: DynamoDBBackend, wire: Wire) -> None:
    """Nothing is made by itself in an account."""
    wire.script("GetItem", Refused("ResourceNotFoundException"))
    with pytest.raises(OperationalError, match=r"no DynamoDB table 'results'.*create_table=True"):
        backend.read(["t0"])


def test_a_missing_table_is_made_where_the_option_says_so(wire: Wire) -> None:
    """On demand, with the sort key and TTL; one that another process is making is waited for."""
    backend = DynamoDBBackend("dynamodb://results", {**OPTIONS, "create_table": True}, ManualClock())
    wire.script("GetItem", Refused("ResourceNotFoundException"), {})
    wire.script("CreateTable", Refused("ResourceInUseException"))
    wire.script(
        "DescribeTable",
        Refused("ResourceNotFoundException"),
        {"Table": {"TableStatus": "CREATING"}},
        {"Table": {"TableStatus": "ACTIVE"}},
    )
    wire.script("UpdateTimeToLive", Refused("ValidationException", "TimeToLive is already enabled"))
    assert backend.read(["t0"]) == {}
    (made,) = wire.of("CreateTable")
    assert (made["TableName"], made["BillingMode"]) == ("results", "PAY_PER_REQUEST")
    assert [entry["AttributeName"] for entry in made["KeySchema"]] == ["pk", "sk"]
    assert wire.of("UpdateTimeToLive")[0]["TimeToLiveSpecification"] == {"Enabled": True, "AttributeName": "ttl"}


@pytest.mark.parametrize(
    ("url", "options", "table"),
    [
        ("dynamodb://", {}, "dispatcher"),
        ("dynamodb://MyResults", {}, "MyResults"),
        ("dynamodb://eu-west-1/r_1", {}, "r_1"),
        ("dynamodb://localhost:8000/r-1", {}, "r-1"),
        ("dynamodb://eu-west-1", {"table": "other"}, "other"),
    ],
)
def test_the_table_is_named_by_url_or_option(url: str, options: dict[str, Any], table: str) -> None:
    """The option wins."""
    assert DynamoDBBackend(url, options).table == table


def test_wrong_options_are_refused() -> None:
    """Names that DynamoDB does not take, Celery's options without meaning, typos."""
    with pytest.raises(ImproperlyConfigured, match="no name of a DynamoDB table"):
        DynamoDBBackend("dynamodb://eu-west-1/a")
    with pytest.raises(UnsupportedOption, match="on demand"):
        DynamoDBBackend("dynamodb://@eu-west-1/table?read=5")
    with pytest.raises(ImproperlyConfigured, match="did you mean 'create_table'"):
        DynamoDBBackend("dynamodb://", {"create_tabel": True})


def test_a_record_is_read_back_as_written() -> None:
    """Every column, with and without its optional ones."""
    from dispatcher.backends.dynamodb_items import record_of

    write = make(3, gen=2, retries=4, starts=1, not_before=1_900_000_000.25)
    assert record_of(item(write, v={"N": "1"})) == write.record(revoked=True)
    assert record_of(item(make(3, token="", data=""))) == TaskRecord("t3", "SUCCESS", final=True)
    of_an_older_release = item(write)
    del of_an_older_release["a"]
    assert record_of(of_an_older_release) == write.record()


# Rate limits


def test_a_guess_of_a_slot_is_wrong_once(backend: DynamoDBBackend, wire: Wire) -> None:
    """What the item says instead is the next guess; the answer tells which slots were got."""
    ahead = {"pk": {"S": "RATE#b"}, "sk": {"S": "META"}, "next": {"N": "1800000060000000"}}
    refusal = Refused("ConditionalCheckFailedException", Item=ahead)
    wire.script("UpdateItem", refusal, {"Attributes": {"next": {"N": "1800000070000000"}}})
    assert backend.reserve("b", 2, 10.0) == [1_800_000_070.0, 1_800_000_080.0]
    first, second = wire.of("UpdateItem")
    assert first["UpdateExpression"] == "SET #next = :next"
    assert second["UpdateExpression"] == "SET #next = #next + :span"
    assert second["ConditionExpression"] == "#next > :floor"
    assert backend.reserve("b", 1, 10.0, latest=1_800_000_089.0) == []
    assert wire.operations == ["UpdateItem"] * 2


def test_a_slot_of_this_very_moment_is_set(backend: DynamoDBBackend, wire: Wire) -> None:
    """What is to come is put off; a slot that is due now is none of that, and nobody could ever put it off."""
    wire.script("UpdateItem", {}, {"Attributes": {"next": {"N": "1800000010000000"}}})
    assert backend.reserve("b", 1, 10.0) == [1_800_000_000.0]
    backend.clock.sleep(10.0)  # exactly
    assert backend.reserve("b", 1, 10.0) == [1_800_000_010.0]
    assert [call["UpdateExpression"] for call in wire.of("UpdateItem")] == ["SET #next = :next"] * 2


def test_those_who_keep_overtaking_are_given_way(backend: DynamoDBBackend, wire: Wire) -> None:
    """Where the bound is missed again and again the caller waits between tries, asks for less, and finds out."""

    def overtaken(_: dict[str, Any]) -> dict[str, Any]:
        times.append(times[-1] + 10_000_000)
        raise Refused("ConditionalCheckFailedException", Item={"next": {"N": str(times[-1])}})

    times = [1_800_000_000_000_000]
    wire.on("UpdateItem", overtaken)
    assert backend.reserve("b", 4, 10.0, latest=1_800_000_055.0) == []
    wanted = [int(call["ExpressionAttributeValues"][":span"]["N"]) // 10_000_000 for call in wire.of("UpdateItem")[1:]]
    assert wanted == [4, 4, 3, 2, 1]
    assert backend.clock.monotonic() > 0


def test_a_throttled_limit_gives_no_slot(backend: DynamoDBBackend, wire: Wire) -> None:
    """One item takes so many writes a second; who gets none hears so, and starts nothing."""
    wire.on("UpdateItem", lambda _: throttle())
    with pytest.raises(OperationalError, match="ProvisionedThroughputExceeded"):
        backend.reserve("b", 1, 0.001)


def throttle() -> dict[str, Any]:
    """Refuse for want of capacity."""
    raise Refused("ProvisionedThroughputExceededException")
