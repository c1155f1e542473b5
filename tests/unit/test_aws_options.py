"""URLs and options of the AWS adapters: read, refused with a reason, or a typo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dispatcher.aws_options import COMMON, Credentials, Role, client_settings, number, parse_url, read
from dispatcher.backends.dynamodb import OPTIONS as DYNAMODB_OPTIONS
from dispatcher.brokers.sqs_queues import OPTIONS as SQS_OPTIONS
from dispatcher.exceptions import ImproperlyConfigured, SecurityWarning, UnsupportedOption

KNOWN = {**COMMON, "visibility_timeout": number(0, 43_200)}


@pytest.mark.parametrize(
    ("url", "name", "options"),
    [
        ("sqs://", "", {}),
        ("sqs://eu-west-1", "", {"region": "eu-west-1"}),
        ("sqs://us-gov-west-1", "", {"region": "us-gov-west-1"}),
        ("sqs://localstack", "", {"endpoint_url": "localstack"}),
        ("sqs://localhost:4566", "", {"endpoint_url": "http://localhost:4566"}),
        ("sqs://[::1]:4566", "", {"endpoint_url": "http://[::1]:4566"}),
        ("sqs://localstack:4566", "", {"endpoint_url": "http://localstack:4566"}),
        ("sqs://sqs.eu-west-1.amazonaws.com", "", {"endpoint_url": "https://sqs.eu-west-1.amazonaws.com"}),
        ("sqs://?region=eu-west-1", "", {"region": "eu-west-1"}),
        ("sqs://h.example:1?is_secure=true", "", {"endpoint_url": "https://h.example:1", "is_secure": "true"}),
        ("dynamodb://MyTable", "MyTable", {}),
        ("dynamodb://eu-west-1/MyTable", "MyTable", {"region": "eu-west-1"}),
        ("dynamodb://localstack/MyTable", "MyTable", {"endpoint_url": "localstack"}),
        ("dynamodb://127.0.0.1:8000/t_1", "t_1", {"endpoint_url": "http://127.0.0.1:8000"}),
    ],
)
def test_urls_are_read(url: str, name: str, options: dict[str, Any]) -> None:
    """A URL names a region, an emulator or a table; a query adds options."""
    assert parse_url(url) == (name, options)


def test_keys_in_a_url_are_unquoted_with_a_warning() -> None:
    """Celery's form works, and says what is better."""
    with pytest.warns(SecurityWarning, match="prefer a role"):
        parsed = parse_url("sqs://AKID:a%2Fb%40c@eu-west-1")
    assert parsed.options == {"region": "eu-west-1", "access_key_id": "AKID", "secret_access_key": "a/b@c"}


@pytest.mark.parametrize("url", ["sqs://AKID@", "sqs://:secret@", "sqs://host:port/", "sqs://[::1"])
def test_broken_urls_are_refused(url: str) -> None:
    """Half a pair of keys and unreadable hosts are errors, without showing the URL."""
    with pytest.raises(ImproperlyConfigured, match="sqs:// URL") as caught:
        parse_url(url)
    assert "secret@" not in str(caught.value)


def test_a_typo_names_the_nearest_option() -> None:
    """An unknown option is never ignored."""
    with pytest.raises(ImproperlyConfigured, match="did you mean 'visibility_timeout'"):
        read("sqs", {"visiblity_timeout": 1}, KNOWN, {})
    with pytest.raises(ImproperlyConfigured, match="known are"):
        read("sqs", {"zzz": 1}, KNOWN, {})


def test_an_option_without_meaning_is_refused_with_the_reason() -> None:
    """The message says why."""
    with pytest.raises(UnsupportedOption, match=r"'port'.*use endpoint_url"):
        read("sqs", {"port": 1}, KNOWN, {"port": "use endpoint_url"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visibility_timeout", -1), ("visibility_timeout", 50_000), ("visibility_timeout", "soon"),
        ("visibility_timeout", True), ("region", ""), ("region", 5), ("is_secure", "perhaps"), ("client-config", []),
    ],
)  # fmt: skip
def test_wrong_values_are_named(name: str, value: Any) -> None:
    """A value that cannot be meant is an error that says what is expected."""
    with pytest.raises(ImproperlyConfigured, match=f"{name!r} must be "):
        read("sqs", {name: value}, KNOWN, {})


def test_secret_values_are_not_shown() -> None:
    """An error about a secret does not repeat it."""
    with pytest.raises(ImproperlyConfigured) as caught:
        read("sqs", {"secret_access_key": 12345}, KNOWN, {})
    assert "12345" not in str(caught.value)


def test_texts_of_a_query_are_converted() -> None:
    """Numbers and flags may come as text; `None` counts as not given."""
    assert read("sqs", {"visibility_timeout": "30", "is_secure": "off", "region": None}, KNOWN, {}) == {
        "visibility_timeout": 30.0, "is_secure": False,
    }  # fmt: skip


def test_settings_come_from_options() -> None:
    """Everything that tells clients apart is kept."""
    settings = client_settings(
        "sqs",
        {
            "region": "eu-west-1", "access_key_id": "a", "secret_access_key": "b", "session_token": "t",
            "sts_role_arn": "arn", "sts_token_timeout": 900.0, "client-config": {"connect_timeout": 1},
        },
    )  # fmt: skip
    assert (settings.credentials, settings.role) == (Credentials("a", "b", "t"), Role("arn", 900))
    assert settings.config == (("connect_timeout", 1),)
    assert hash(settings)


@pytest.mark.parametrize("options", [{"access_key_id": "a"}, {"secret_access_key": "b"}, {"sts_token_timeout": 900}])
def test_half_a_setting_is_an_error(options: dict[str, Any]) -> None:
    """Keys go in pairs; a token's time needs a role."""
    with pytest.raises(ImproperlyConfigured, match="needs"):
        client_settings("sqs", options)


def test_the_documentation_lists_every_option() -> None:
    """An option nobody can look up does not exist."""
    page = (Path(__file__).parents[2] / "docs" / "aws.md").read_text()
    table = page.partition("## Options")[2].partition("## Queues")[0]
    missing = [name for name in {**SQS_OPTIONS, **DYNAMODB_OPTIONS} if f"`{name}`" not in table]
    assert missing == []
