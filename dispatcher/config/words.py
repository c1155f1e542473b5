"""The words that settings take: serializers, compressions, schemes of URLs, pools, guards; ours and other people's."""

from __future__ import annotations

from typing import Final

from dispatcher.config.types import Choice, OpenChoice, Url

CODECS: Final = OpenChoice(
    "json",
    "msgpack",
    "yaml",
    "pickle",
    also={
        "application/json": "json",
        "application/x-msgpack": "msgpack",
        "application/msgpack": "msgpack",
        "application/x-yaml": "yaml",
        "application/yaml": "yaml",
        "application/x-python-serialize": "pickle",
    },
    refused={
        "auth": "messages are signed with shared keys here; set signing_keys",
        "application/data": "messages are signed with shared keys here; set signing_keys",
    },
)

COMPRESSIONS: Final = OpenChoice(
    "zlib", "gzip", "bz2", "lzma", "zstd", also={"bzip2": "bz2", "bzip": "bz2", "xz": "lzma", "zstandard": "zstd"}
)

_NO_RABBIT: Final = "there is no RabbitMQ transport"
_NO_BROKER: Final = "there is no such transport"
_NO_STORE: Final = "there is no such result backend"
BROKERS: Final = Url(
    "sqs://, redis://localhost:6379/0, sqlite:///tasks.db or memory://",
    {
        **dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq", "qpid"), _NO_RABBIT),
        **dict.fromkeys(
            (
                *("sentinel", "kafka", "confluentkafka", "gcpubsub", "mongodb", "zookeeper", "zk", "consul", "etcd"),
                *("filesystem", "pyro", "sqla", "sqlalchemy", "azurestoragequeues", "azureservicebus", "slmq"),
            ),
            _NO_BROKER,
        ),
    },
)
STORES: Final = Url(
    "dynamodb://, redis://localhost:6379/0, sqlite:///results.db or memory://",
    {
        **dict.fromkeys(("rpc", "amqp"), "results do not travel as messages here"),
        **dict.fromkeys(
            (
                *("db", "database", "cache", "mongodb", "cassandra", "elasticsearch", "couchdb", "couchbase", "s3"),
                *(
                    "arangodb",
                    "azureblockblob",
                    "cosmosdbsql",
                    "consul",
                    "file",
                    "filesystem",
                    "gs",
                    "sentinel",
                    "etcd",
                ),
            ),
            _NO_STORE,
        ),
        "disabled": "retries and duplicates are tracked in the record; leave it unset and set task_ignore_result",
        **dict.fromkeys(("django-db", "django-cache"), "results are not kept in Django's database or cache"),
    },
)
POOLS: Final = Choice(
    "prefork",
    "solo",
    "threads",
    "asyncio",
    also={"processes": "prefork", "process": "prefork", "thread": "threads", "aio": "asyncio"},
    refused=dict.fromkeys(("gevent", "eventlet"), "this pool is not available in this release; use asyncio or threads"),
)

GUARDS: Final = Choice("process", "thread", "none")
