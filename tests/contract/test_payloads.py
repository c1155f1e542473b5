"""The payload store contract, kept by S3 over HTTP and by a directory; and S3's failures."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispatcher.exceptions import DecodeError, OperationalError, PayloadMissing
from dispatcher.payloads import PayloadStore, open_store
from tests.emulation.endpoint import AwsEndpoint, unique_name

LIMIT = 64 << 20


class PayloadContract:
    """What every store promises; ``url`` is a fixture of the subclass, ``damage`` changes what is stored."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[PayloadStore]:
        """The store under test."""
        store = open_store(url)
        yield store
        store.close()

    def damage(self, store: PayloadStore, reference: Any, content: bytes | None) -> None:
        """Overwrite a payload, or remove it."""
        raise NotImplementedError

    @pytest.mark.parametrize("content", [b"", b"\0\r\n" * 5, b"x" * 3_000_000], ids=["empty", "binary", "large"])
    def test_content_comes_back(self, store: PayloadStore, content: bytes) -> None:
        """To the byte, also when it was stored twice."""
        for _ in range(2):
            store.put([(store.reference({"enc": "json"}, content), content)])
        assert store.get(store.reference({"enc": "json"}, content), LIMIT) == content

    def test_many_are_stored_at_once(self, store: PayloadStore, url: str) -> None:
        """Another process's store, with the same URL, reads them, in threads."""
        payloads = [(store.reference({"enc": "json"}, content), content) for content in (b"%d" % n for n in range(20))]
        store.put(payloads)
        other = open_store(url)
        with ThreadPoolExecutor(4) as threads:
            read = list(threads.map(lambda payload: other.get(payload[0], LIMIT), payloads))
        assert read == [content for _, content in payloads]

    def test_a_missing_payload_is_told_from_an_unreachable_store(self, store: PayloadStore) -> None:
        """Whoever reads or refreshes it gets `PayloadMissing`."""
        kept = store.reference({"enc": "json"}, b"kept")
        store.put([(kept, b"kept")])
        missing = store.reference({"enc": "json"}, b"never stored")
        with pytest.raises(PayloadMissing, match=missing["sha256"]):
            store.get(missing, LIMIT)
        with pytest.raises(PayloadMissing):
            store.refresh(missing)

    def test_refreshing_changes_nothing_but_the_age(self, store: PayloadStore) -> None:
        """The content stays; a reference to another store is left alone."""
        reference = store.reference({"enc": "json"}, b"kept")
        store.put([(reference, b"kept")])
        store.refresh(reference)
        assert store.get(reference, LIMIT) == b"kept"
        store.refresh({**reference, "ref": "s3://elsewhere/" + reference["sha256"]})

    def test_changed_content_is_refused(self, store: PayloadStore) -> None:
        """Another length, the same length, and none at all."""
        reference = store.reference({"enc": "json"}, b"right")
        for content, error in ((b"longer", "5 bytes long"), (b"wrong", "SHA-256"), (None, "is gone")):
            store.put([(reference, b"right")])
            self.damage(store, reference, content)
            with pytest.raises(DecodeError, match=error):
                store.get(reference, LIMIT)


class TestDirectory(PayloadContract):
    """A directory."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        """A directory that does not exist yet, with a name that URLs must quote."""
        return (tmp_path / "large payloads" / "100%").as_uri()

    def damage(self, store: PayloadStore, reference: Any, content: bytes | None) -> None:
        """Write to the file."""
        from urllib.parse import unquote

        file = Path(unquote(reference["ref"].removeprefix("file://")))
        file.unlink() if content is None else file.write_bytes(content)


class TestS3(PayloadContract):
    """S3, over HTTP."""

    @pytest.fixture
    def bucket(self, aws_env: AwsEndpoint) -> str:
        """A bucket of its own."""
        name = unique_name("payloads")
        aws_env.client("s3").create_bucket(Bucket=name)
        return name

    @pytest.fixture
    def url(self, bucket: str) -> str:
        """With a prefix."""
        return f"s3://{bucket}/some/prefix"

    @pytest.fixture
    def s3(self, aws_env: AwsEndpoint) -> Any:
        """A client of the endpoint."""
        return aws_env.client("s3")

    @pytest.fixture(autouse=True)
    def _s3(self, s3: Any, bucket: str) -> None:
        self._client, self._bucket = s3, bucket

    def damage(self, store: PayloadStore, reference: Any, content: bytes | None) -> None:
        """Write to the object."""
        key = reference["ref"].removeprefix(f"s3://{self._bucket}/")
        if content is None:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        else:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def test_objects_are_named_by_prefix_and_hash(self, store: PayloadStore, s3: Any, bucket: str) -> None:
        """Nothing else about a task shows in the bucket."""
        reference = store.reference({"enc": "json"}, b"x")
        store.put([(reference, b"x")])
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == [f"some/prefix/{reference['sha256']}"]

    def test_refreshing_is_a_new_write(self, store: PayloadStore, s3: Any, bucket: str) -> None:
        """S3 counts the days of a lifecycle rule from the last one."""
        reference = store.reference({"enc": "json"}, b"x")
        store.put([(reference, b"x")])
        key = f"some/prefix/{reference['sha256']}"
        before = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        versions = _writes(s3, bucket, key, lambda: store.refresh(reference))
        assert versions == 2
        assert before["ContentType"] == s3.head_object(Bucket=bucket, Key=key)["ContentType"]

    def test_a_missing_bucket_is_out_of_reach(self, aws_env: AwsEndpoint) -> None:
        """Each operation says which bucket; nothing is taken for expired."""
        store = open_store("s3://there-is-no-such-bucket/p")
        reference = store.reference({"enc": "json"}, b"x")
        for operation in (
            lambda: store.put([(reference, b"x")]),
            lambda: store.get(reference, LIMIT),
            lambda: store.refresh(reference),
        ):
            with pytest.raises(OperationalError, match="there-is-no-such-bucket"):
                operation()

    def test_a_download_that_breaks_off_is_begun_anew(self, aws_env: AwsEndpoint) -> None:
        """A connection that is lost in the middle costs a new request, not the task."""
        with _Server([b"par", b"part", b"whole"]) as server:
            store = open_store(f"s3://bucket?endpoint_url=http://127.0.0.1:{server.port}")
            assert store.get(store.reference({"enc": "json"}, b"whole"), LIMIT) == b"whole"
        with _Server([b"par"] * 9) as server:
            store = open_store(f"s3://bucket?endpoint_url=http://127.0.0.1:{server.port}")
            with pytest.raises(OperationalError):
                store.get(store.reference({"enc": "json"}, b"whole"), LIMIT)
            assert server.requests == 3

    def test_a_larger_object_is_not_read(self, aws_env: AwsEndpoint) -> None:
        """Memory is bounded by the size that the reference states, which is checked first."""
        with _Server([b"x" * 6]) as server:
            server.length = 10**12
            store = open_store(f"s3://bucket?endpoint_url=http://127.0.0.1:{server.port}")
            with pytest.raises(DecodeError, match="5 bytes long"):
                store.get(store.reference({"enc": "json"}, b"whole"), LIMIT)


def _writes(s3: Any, bucket: str, key: str, action: Any) -> int:
    """Return how many versions an object has after an action that found it with one."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    action()
    return len(s3.list_object_versions(Bucket=bucket, Prefix=key)["Versions"])


class _Server:
    """Answers each GET with the next content, says that it is five bytes long, and hangs up."""

    def __init__(self, contents: list[bytes]) -> None:
        self.requests, self.length = 0, 5
        owner, answers = self, iter(contents)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = next(answers)
                owner.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(owner.length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> _Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
