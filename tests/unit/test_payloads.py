"""Payload stores, references, and what of a message or a record goes where."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher import aws
from dispatcher.backends.meta import ResultMeta
from dispatcher.exceptions import (
    DecodeError,
    ImproperlyConfigured,
    MessageTooLarge,
    OperationalError,
    PayloadMissing,
    UnsupportedOption,
)
from dispatcher.message import InvalidMessage, Message, decode, encode
from dispatcher.payloads import (
    DirectoryPayloads,
    Parcels,
    PayloadElsewhere,
    PayloadStore,
    S3Payloads,
    inline_limit,
    open_store,
)
from dispatcher.serialization import json_decode, pack

CONTENT = b"[[1],{}]"
LIMIT = 1 << 20
Damage = Callable[[dict[str, Any]], Any]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryPayloads:
    """A directory."""
    return DirectoryPayloads(str(tmp_path / "payloads"))


def kept(store: PayloadStore, content: bytes = CONTENT) -> dict[str, Any]:
    """Store content and return its reference."""
    reference = store.reference({"enc": "json"}, content)
    store.put([(reference, content)])
    return reference


def file_of(reference: dict[str, Any]) -> Path:
    """Return where a directory keeps a payload."""
    return Path(reference["ref"].removeprefix("file://"))


class TestReferences:
    """What a reference says, and what of it is believed."""

    def test_a_reference_names_the_content_by_its_hash(self) -> None:
        """Place, size, hash and encoding; equal content has an equal reference."""
        store = open_store("s3://bucket/some/prefix")
        digest = hashlib.sha256(CONTENT).hexdigest()
        assert store.reference({"enc": "json", "zip": "zlib"}, CONTENT) == {
            "ref": f"s3://bucket/some/prefix/{digest}",
            "size": 8,
            "sha256": digest,
            "enc": "json",
            "zip": "zlib",
        }

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda r: r.pop("ref"), "needs the texts"),
            (lambda r: r.update(ref=1), "needs the texts"),
            (lambda r: r.update(size="8"), "needs the texts"),
            (lambda r: r.update(size=True), "needs the texts"),
            (lambda r: r.update(size=-1), "needs the texts"),
            (lambda r: r.pop("sha256"), "needs the texts"),
            (lambda r: r.update(sha256="../" * 20 + "abcd"), "64 hexadecimal digits"),
            (lambda r: r.update(sha256=r["sha256"].upper()), "64 hexadecimal digits"),
            (lambda r: r.update(size=LIMIT + 1), "max_message_bytes is 1,048,576"),
            (lambda r: r.update(size=7), "not 7 bytes long"),
            (lambda r: r.update(size=9), "not 9 bytes long"),
        ],
    )
    def test_a_wrong_reference_is_refused(self, store: DirectoryPayloads, damage: Damage, says: str) -> None:
        """Malformed, larger than what is decoded, or of another size than the content."""
        reference = kept(store)
        damage(reference)
        with pytest.raises(DecodeError, match=says):
            store.get(reference, LIMIT)

    @pytest.mark.parametrize(
        "ref",
        [
            "s3://other/{}",
            "s3://bucket/{}",
            "s3://bucket/prefix/x/{}",
            "file:///etc/{}",
            "s3://bucket/prefix/../{}",
            "{}",
        ],
    )
    def test_only_the_configured_place_is_read(self, ref: str) -> None:
        """A message cannot make a worker read another bucket, prefix or file that its role can."""
        store = open_store("s3://bucket/prefix")
        reference = store.reference({"enc": "json"}, CONTENT)
        reference["ref"] = ref.format(reference["sha256"])
        with pytest.raises(PayloadElsewhere, match="payload_bucket here is s3://bucket/prefix"):
            store.get(reference, LIMIT)

    @pytest.mark.parametrize(
        "digest", ["../outside", "/etc/passwd", "", None, 5, "A" * 64, "a" * 64 + "/../../outside"]
    )
    def test_only_payloads_are_refreshed(self, store: DirectoryPayloads, tmp_path: Path, digest: Any) -> None:
        """A message cannot make a worker touch another file, or copy another object onto itself."""
        import os

        kept(store)
        outside = tmp_path / "outside"
        outside.touch()
        os.utime(outside, (1, 1))
        store.refresh({"ref": f"{store.base}/{digest}", "sha256": digest, "size": 0, "enc": "json"})
        assert outside.stat().st_mtime == 1

    @pytest.mark.parametrize(
        "url",
        [
            "s3://B_ad/x",
            "s3://ab",
            "s3://bucket/sp ace",
            "ftp://host/x",
            "file://host/x",
            "file:///",
            "bucket",
            "s3:///x",
        ],
    )
    def test_a_place_that_cannot_work_is_refused(self, url: str) -> None:
        """Names that S3 does not take, and URLs of something else."""
        with pytest.raises(ImproperlyConfigured, match="payload_bucket"):
            open_store(url)

    def test_options_of_the_url_are_those_of_the_other_adapters(self) -> None:
        """Known ones work, misspelt ones and keys are refused."""
        store = open_store("s3://bucket/p?region=eu-west-1&endpoint_url=http://127.0.0.1:1")
        assert isinstance(store, S3Payloads)
        assert (store.base, store._settings.region) == ("s3://bucket/p", "eu-west-1")
        with pytest.raises(ImproperlyConfigured, match="did you mean 'region'"):
            open_store("s3://bucket?regoin=eu-west-1")
        with pytest.raises(UnsupportedOption, match="use a role"):
            open_store("s3://bucket?secret_access_key=x")


class TestDirectory:
    """The store that needs no server."""

    def test_content_comes_back(self, store: DirectoryPayloads) -> None:
        """Also when it is stored twice; nobody else may read the files."""
        reference = kept(store)
        assert kept(store) == reference
        assert store.get(reference, LIMIT) == CONTENT
        assert [file.name for file in file_of(reference).parent.iterdir()] == [reference["sha256"]]
        assert stat.S_IMODE(file_of(reference).stat().st_mode) == 0o600

    def test_changed_content_is_refused(self, store: DirectoryPayloads) -> None:
        """The hash is checked, not only the size."""
        reference = kept(store)
        file_of(reference).write_bytes(b"[[2],{}]")
        with pytest.raises(DecodeError, match="another SHA-256"):
            store.get(reference, LIMIT)

    def test_a_payload_that_is_gone_is_missing(self, store: DirectoryPayloads) -> None:
        """Reading and refreshing say so, and what to do."""
        reference = kept(store)
        file_of(reference).unlink()
        for access in (lambda: store.get(reference, LIMIT), lambda: store.refresh(reference)):
            with pytest.raises(PayloadMissing, match="lifecycle"):
                access()

    def test_a_directory_that_is_gone_is_out_of_reach(self, store: DirectoryPayloads) -> None:
        """A mount that is not there must not look like payloads that were cleaned up."""
        reference = store.reference({"enc": "json"}, CONTENT)
        with pytest.raises(OperationalError, match="cannot be read"):
            store.get(reference, LIMIT)

    def test_a_directory_that_cannot_be_written_is_out_of_reach(self, tmp_path: Path) -> None:
        """A file in its place, for one."""
        (tmp_path / "file").touch()
        with pytest.raises(OperationalError, match="cannot be written to"):
            kept(DirectoryPayloads(str(tmp_path / "file")))

    def test_refreshing_begins_the_lifetime_anew(self, store: DirectoryPayloads) -> None:
        """By the time of change, which a clean-up goes by."""
        import os

        reference = kept(store)
        os.utime(file_of(reference), (1, 1))
        store.refresh(reference)
        assert file_of(reference).stat().st_mtime > 1_000_000


class TestParcels:
    """Which arguments of a send go to the store."""

    def parcels(self, store: PayloadStore, **changes: Any) -> Parcels:
        """Make parcels that store from 1,000 bytes on."""
        return Parcels(store, **{"limit": None, "threshold": 1_000, "max_bytes": LIMIT, **changes})

    def test_small_arguments_stay_in_the_message(self, store: DirectoryPayloads) -> None:
        """Nothing is stored."""
        parcels, message = self.parcels(store), Message(id="1", task="t", args=(1,))
        assert parcels.body_of(message) == encode(message)
        parcels.store()
        assert not Path(store.base.removeprefix("file://")).exists()

    def test_large_arguments_leave_a_reference(self, store: DirectoryPayloads) -> None:
        """The body has no arguments and is marked for releases that know no payloads."""
        parcels = self.parcels(store)
        body = parcels.body_of(Message(id="1", task="t", args=("x" * 2_000,), kwargs={"k": 1}))
        parcels.store()
        fields = json_decode(body)
        assert fields.keys() == {"v", "id", "task", "payload", "critical"}
        assert fields["critical"] == ["payload"]
        stored = store.get(decode(body).payload or {}, LIMIT)
        assert json_decode(stored) == [["x" * 2_000], {"k": 1}]

    def test_packed_arguments_are_stored_without_base64(self, store: DirectoryPayloads) -> None:
        """The reference says how they are encoded."""
        packed = pack([["x" * 2_000 + str(list(range(400)))], {}], "msgpack", "zlib")
        parcels = self.parcels(store)
        reference = decode(parcels.body_of(Message(id="1", task="t", packed=packed, args=(1,)))).payload
        parcels.store()
        assert reference is not None
        assert (reference["enc"], reference["zip"]) == ("msgpack", "zlib")
        assert len(store.get(reference, LIMIT)) < len(packed["data"])

    def test_what_is_sent_anew_keeps_its_reference(self, store: DirectoryPayloads) -> None:
        """Only its lifetime begins anew; a payload that is gone is an error before the message is sent."""
        reference = kept(store)
        message = Message(id="1", task="t", gen=1, payload=reference, args=(1,))
        assert decode(self.parcels(store).body_of(message)).payload == reference
        file_of(reference).unlink()
        with pytest.raises(PayloadMissing):
            self.parcels(store).body_of(message)

    def test_equal_arguments_of_one_send_are_stored_once(self, store: DirectoryPayloads) -> None:
        """A table that a thousand tasks get is uploaded once."""
        stored: list[int] = []

        class Counting(DirectoryPayloads):
            def put(self, payloads: Any) -> None:
                stored.append(len(payloads))

        parcels = self.parcels(Counting(store._path))
        bodies = {parcels.body_of(Message(id=str(n), task="t", args=("x" * 2_000,))) for n in range(20)}
        parcels.store()
        assert (len(bodies), stored) == (20, [1])

    def test_large_payloads_wait_in_small_groups(self, store: DirectoryPayloads) -> None:
        """A bulk send holds eight at a time in memory."""
        stored: list[int] = []

        class Counting(DirectoryPayloads):
            def put(self, payloads: Any) -> None:
                stored.append(len(payloads))

        parcels = self.parcels(Counting(store._path))
        for n in range(20):
            parcels.body_of(Message(id=str(n), task="t", args=(f"{n}" * 2_000,)))
        parcels.store()
        assert stored == [8, 8, 4]

    def test_the_transports_limit_leaves_room_for_signature_and_reason(self, store: DirectoryPayloads) -> None:
        """A body just below the limit could be neither signed nor buried with its reason."""
        parcels = self.parcels(store, limit=LIMIT, threshold=None)
        assert decode(parcels.body_of(Message(id="1", task="t", args=("x" * (LIMIT - 1_000),)))).payload
        assert not decode(parcels.body_of(Message(id="1", task="t", args=("x" * (LIMIT - 70_000),)))).payload

    def test_what_readers_would_refuse_is_not_sent(self, store: DirectoryPayloads) -> None:
        """The error names the setting."""
        with pytest.raises(MessageTooLarge, match="max_message_bytes"):
            self.parcels(store).body_of(Message(id="1", task="t", args=("x" * LIMIT,)))

    @pytest.mark.parametrize(
        ("limit", "threshold", "most"), [(None, None, None), (10, None, 10), (None, 10, 9), (5, 10, 5), (20, 10, 9)]
    )
    def test_the_lower_limit_counts(self, limit: int | None, threshold: int | None, most: int | None) -> None:
        """The threshold is the first size that goes to the store, the limit the last that does not."""
        assert inline_limit(limit, threshold) == most


REFERENCE = {"ref": "s3://b/0", "size": 1, "sha256": "0", "enc": "json"}


class TestMessages:
    """The reference in a message."""

    def test_arguments_beside_a_reference_are_refused(self) -> None:
        """Which of them would be meant?"""
        with pytest.raises(InvalidMessage, match="nowhere else"):
            decode('{"v":1,"id":"1","task":"t","args":[1],"payload":{"ref":"s3://b/0"}}')

    def test_loaded_arguments_are_not_sent(self) -> None:
        """A message keeps its reference, and travels with that alone."""
        message = Message(id="1", task="t", payload=REFERENCE)
        loaded = message.with_payload(lambda reference: [[reference["size"]], {"k": 2}])
        assert (loaded.args, loaded.kwargs) == ((1,), {"k": 2})
        assert encode(loaded) == encode(message)
        assert loaded.without_arguments() == message

    @pytest.mark.parametrize("value", [None, [1], [[1], {}, 3], [{}, []], [[1], {"k": 1}, {}], "ab"])
    def test_a_payload_of_something_else_is_refused(self, value: Any) -> None:
        """The error carries the message, so that its error callbacks can be called."""
        message = Message(id="1", task="t", payload=REFERENCE)
        with pytest.raises(InvalidMessage) as raised:
            message.with_payload(lambda _: value)
        assert raised.value.envelope is message  # type: ignore[attr-defined]


class TestResults:
    """The reference in a record."""

    def test_small_facts_stay_in_the_record(self) -> None:
        """State and times can be read without the store."""
        meta = ResultMeta(result=[1], traceback="long", date_done=5.0, parent_id="p", children=[[]], args=[1])
        text = meta.encode_reference({"ref": "s3://b/0"})
        assert json_decode(text) == {"packed": {"ref": "s3://b/0"}, "date_done": 5.0, "parent_id": "p"}

    def test_the_content_is_fetched_when_it_is_asked_for_and_once(self) -> None:
        """Reading the state of a task moves no payload."""
        text = ResultMeta(date_done=5.0).encode_reference({"ref": "s3://b/0"})
        meta = ResultMeta.decode(text, frozenset({"json"}), LIMIT)
        asked: list[Any] = []

        def source(reference: Any) -> ResultMeta:
            asked.append(reference)
            return ResultMeta(result=7, children=[], traceback="t")

        meta.source = source
        assert (meta.result, asked) == (None, [])
        assert meta.complete().complete() is meta
        assert (meta.result, meta.children, meta.traceback, meta.date_done) == (7, [], "t", 5.0)
        assert asked == [{"ref": "s3://b/0"}]


class TestLoading:
    """S3 and its client."""

    def test_the_aws_library_is_not_loaded_before_it_is_needed(self) -> None:
        """Neither by an app without payloads nor by one whose payloads are small."""
        code = (
            "import sys; from dispatcher import Dispatcher\n"
            "app = Dispatcher('x', broker='memory://', payload_bucket='bucket/prefix')\n"
            "app.task(lambda: 1, name='t').delay()\n"
            "assert 'botocore' not in sys.modules\n"
            "app = Dispatcher('x', broker='memory://')\n"
            "assert 'dispatcher.payloads' in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        without = "import sys, dispatcher.app; assert 'dispatcher.payloads' not in sys.modules"
        subprocess.run([sys.executable, "-c", without], check=True)

    @pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1"])
    def test_requests_are_those_of_a_plain_client(self, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The shortened endpoint table changes neither address nor signature."""
        import botocore.session
        from botocore.config import Config

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        aws._forget_parent()
        plain = botocore.session.Session().create_client(
            "s3", config=Config(s3={"us_east_1_regional_endpoint": "regional"})
        )
        ours, theirs = _request(aws.client("s3")), _request(plain)
        aws._forget_parent()
        assert ours.url == theirs.url
        signed = [str(request.headers["Authorization"], "ascii").split(",")[:2] for request in (ours, theirs)]
        assert signed[0] == signed[1]
        assert "X-Amz-Content-SHA256" in ours.headers


class _Caught(Exception):
    def __init__(self, request: Any) -> None:
        self.request = request


def _request(client: Any) -> Any:
    """Return the request that a client would send."""

    def catch(request: Any, **_: Any) -> None:
        raise _Caught(request)

    client.meta.events.register("before-send.s3", catch)
    with pytest.raises(_Caught) as caught:
        client.put_object(Bucket="some-bucket", Key="a/b", Body=b"x", ChecksumSHA256="abc", ContentType="text/plain")
    return caught.value.request
