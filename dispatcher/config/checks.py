"""Settings that must fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.exceptions import ImproperlyConfigured


def check_together(conf: Mapping[str, Any]) -> None:
    """Raise `ImproperlyConfigured` for the first contradiction."""
    soft, hard = conf["task_soft_time_limit"], conf["task_time_limit"]
    if soft is not None and hard is not None and soft >= hard:
        raise ImproperlyConfigured(
            f"task_soft_time_limit ({soft:g} s) must be less than task_time_limit ({hard:g} s) to take effect"
        )
    for key, accepted in (
        ("task_serializer", ("accept_content",)),
        ("result_serializer", ("result_accept_content", "accept_content")),
    ):
        listing = next(name for name in accepted if conf[name] is not None)
        if conf[key] not in conf[listing]:
            raise ImproperlyConfigured(
                f"{key} is {conf[key]!r}, which {listing} does not list: workers would refuse it"
            )
    for key in ("accept_content", "result_accept_content"):
        if "pickle" in (conf[key] or ()) and conf["signing_keys"] is None:
            raise ImproperlyConfigured(
                f"{key} lists pickle, which runs any code a message carries; set signing_keys, or use json or msgpack"
            )
    if conf["payload_threshold"] is not None and conf["payload_bucket"] is None:
        raise ImproperlyConfigured("payload_threshold is set but payload_bucket is not: there is no store to use")
    if conf["broker_url"] is None:
        for key in ("broker_host", "broker_port", "broker_user", "broker_password", "broker_vhost"):
            if conf[key] is not None:
                raise ImproperlyConfigured(
                    f"{key} is set but broker_url is not; give the whole address as broker_url, as in redis://user:password@host:6379/0"
                )
