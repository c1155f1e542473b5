"""Configuration: one validated object, Celery's keys, the environment.

`Config` holds the settings; `OPTIONS` is the table they are checked against, the source of ``docs/configuration.md``
(``python -m dispatcher.config``). This package is the only one that reads the environment.
"""

from dispatcher.config.celery_keys import OLD_NAMES, OPTIONS
from dispatcher.config.core import Config
from dispatcher.config.environment import (
    app_name,
    embedded_path,
    inside_lambda,
    queue_url_for,
    queue_urls,
    queue_variable,
)
from dispatcher.config.options import Option

__all__ = [
    "OLD_NAMES",
    "OPTIONS",
    "Config",
    "Option",
    "app_name",
    "embedded_path",
    "inside_lambda",
    "queue_url_for",
    "queue_urls",
    "queue_variable",
]
