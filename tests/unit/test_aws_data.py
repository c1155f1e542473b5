"""Botocore's data and handlers by the short way: for our services the same as by the long one."""

import botocore
import botocore.session
import pytest

from dispatcher.aws_data import SERVICES, PinnedLoader, small_session


@pytest.mark.parametrize("service", SERVICES)
def test_small_session_handles_all_events_of_our_services(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever botocore does at an event of one of these services, it still does, in the same order."""
    # Powertools, once any test has imported it, has something done to each new session.
    monkeypatch.setattr(botocore, "_INITIALIZERS", [])
    kinds = (
        "creating-client-class", "before-parameter-build", "provide-client-params", "before-endpoint-resolution",
        "before-call", "request-created", "choose-signer", "before-sign", "before-send", "before-parse",
        "response-received", "needs-retry", "after-call", "after-call-error",
    )  # fmt: skip
    whole, small = botocore.session.Session(), small_session()
    operations = whole.get_service_model(service).operation_names
    events = [f"{kind}.{service}{rest}" for kind in kinds for rest in ("", *(f".{name}" for name in operations))]
    found = [
        [list(session._original_handler._handlers.prefix_search(event)) for event in events]
        for session in (whole, small)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("service", SERVICES)
def test_pinned_loader_finds_what_botocore_s_own_finds(service: str) -> None:
    """The pinned versions are those that botocore takes for the newest."""
    whole = botocore.session.Session().get_component("data_loader")
    for kind in ("service-2", "endpoint-rule-set-1"):
        assert PinnedLoader().load_service_model(service, kind) == whole.load_service_model(service, kind)
