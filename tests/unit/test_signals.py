"""Signals: who is called, in which order, and what errors do."""

import gc
import logging
from typing import Any

import pytest

from dispatcher import signals
from dispatcher.signals import Signal


def test_receivers_are_called_in_order_with_their_values() -> None:
    """`send` returns each receiver with its value; one that raises is logged and the rest go on."""
    signal = Signal("test")
    log: list[Any] = []

    @signal.connect
    def first(sender: Any = None, signal: Any = None, **kwargs: Any) -> int:
        log.append((sender, signal.name, kwargs))
        return 1

    @signal.connect
    def second(**kwargs: Any) -> None:
        raise ValueError("second")

    @signal.connect()
    def third(**kwargs: Any) -> int:
        return 3

    logging.disable(logging.CRITICAL)
    try:
        answers = signal.send("me", x=1)
    finally:
        logging.disable(logging.NOTSET)
    assert [receiver for receiver, _ in answers] == [first, second, third]
    assert [repr(value) for _, value in answers] == ["1", "ValueError('second')", "3"]
    assert log == [("me", "test", {"x": 1})]


def test_receivers_are_held_weakly_unless_told_otherwise() -> None:
    """A receiver that nobody else holds is forgotten; methods live as long as their object."""
    signal = Signal("test")

    class Listener:
        def hear(self, **kwargs: Any) -> str:
            return "heard"

    listener = Listener()
    signal.connect(listener.hear)
    signal.connect(lambda **kwargs: "weak")
    signal.connect(lambda **kwargs: "strong", weak=False)
    gc.collect()
    assert [value for _, value in signal.send(None)] == ["heard", "strong"]
    del listener
    gc.collect()
    assert [value for _, value in signal.send(None)] == ["strong"]


def test_same_receiver_is_connected_once() -> None:
    """A second connection, or the same ``dispatch_uid``, adds nothing; another sender does."""
    signal = Signal("test")

    def receiver(**kwargs: Any) -> None: ...

    def other(**kwargs: Any) -> None: ...

    signal.connect(receiver)
    signal.connect(receiver)
    signal.connect(receiver, sender="x")
    signal.connect(other, dispatch_uid="one")
    signal.connect(receiver, dispatch_uid="one")
    assert len(signal.send("x")) == 3
    assert len(signal.send("y")) == 2
    assert signal.disconnect(receiver)
    assert not signal.disconnect(receiver)
    assert signal.disconnect(dispatch_uid="one")
    assert len(signal.send("x")) == 1
    assert (signal.has_listeners("x"), signal.has_listeners("y")) == (True, False)


def test_senders_are_matched_by_identity_equality_or_name() -> None:
    """A task is matched by itself and by its name, in both directions."""

    class Thing:
        name = "thing"

    thing = Thing()
    signal = Signal("test")
    heard: list[str] = []

    def by_object(**kwargs: Any) -> None:
        heard.append("object")

    def by_name(**kwargs: Any) -> None:
        heard.append("name")

    signal.connect(by_object, sender=thing)
    signal.connect(by_name, sender="thing")
    for sender, wanted in ((thing, ["object", "name"]), ("thing", ["object", "name"]), ("other", []), (None, [])):
        heard.clear()
        signal.send(sender)
        assert heard == wanted


def test_receiver_may_be_tried_again() -> None:
    """With ``retry=True`` a receiver that raises is called up to three times."""
    signal = Signal("test")
    calls: list[int] = []

    def flaky(**kwargs: Any) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("not yet")
        return "done"

    signal.connect(flaky, retry=True)
    assert [value for _, value in signal.send(None)] == ["done"]
    with pytest.raises(TypeError, match="needs a callable, not int"):
        signal.connect(5)  # type: ignore[arg-type]


def test_every_signal_of_celery_exists() -> None:
    """All of Celery's signals are there, each knowing what it provides."""
    text = (
        "before_task_publish after_task_publish task_sent task_received task_prerun task_postrun task_success "
        "task_retry "
        "task_failure task_internal_error task_revoked task_rejected task_unknown celeryd_init celeryd_after_setup "
        "import_modules worker_init worker_before_create_process worker_process_init worker_process_shutdown "
        "worker_ready worker_shutdown worker_shutting_down heartbeat_sent setup_logging after_setup_logger "
        "after_setup_task_logger beat_init beat_embedded_init eventlet_pool_started eventlet_pool_preshutdown "
        "eventlet_pool_postshutdown eventlet_pool_apply user_preload_options"
    )
    assert [name for name in text.split() if getattr(signals, name).name != name] == []
    assert repr(signals.task_prerun) == "<Signal: task_prerun>"
