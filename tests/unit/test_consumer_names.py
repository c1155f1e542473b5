"""Names of workers and the abbreviations in them."""

import pytest

from dispatcher.consumer.names import expand, node_name
from dispatcher.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (None, "dispatcher@box.example.com"),
        ("", "dispatcher@box.example.com"),
        ("w1@%h", "w1@box.example.com"),
        ("w1@%n", "w1@box"),
        ("%n@%d", "box@example.com"),
        ("w1@", "w1@box.example.com"),
        ("@here", "dispatcher@here"),
        ("here", "dispatcher@here"),
        ("50%%@%n", "50%@box"),
    ],
)
def test_node_name(pattern: str | None, name: str) -> None:
    """Celery's abbreviations stand for the host's name and its parts."""
    assert node_name(pattern, "box.example.com") == name


def test_expand() -> None:
    """A log file's name may contain the worker's name and its parts."""
    assert expand("/var/log/%n-%h-%p.log", "w1@box", "worker_log_file") == "/var/log/w1-box-w1@box.log"


@pytest.mark.parametrize("pattern", ["w%x", "w%"])
def test_unknown_abbreviation(pattern: str) -> None:
    """Another letter after % is an error that names the option and those there are."""
    with pytest.raises(ImproperlyConfigured, match=r"hostname=.* contains %.*known: %h, %n, %d, %%"):
        node_name(pattern, "box")
