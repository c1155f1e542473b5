"""What the model of `python -m benchmarks scale` predicts is what the emulator counts for the same work."""

from __future__ import annotations

import pytest

from benchmarks.scale.command import alone
from benchmarks.scale.emulated import Counts, count, errors
from benchmarks.scale.workloads import WORKLOADS
from tests.emulation.endpoint import AwsEndpoint


@pytest.mark.parametrize(("name", "tasks"), [("lean", 40), ("results", 40), ("unique", 20), ("limited", 40)])
def test_requests_and_units_are_those_that_an_endpoint_counts(aws_endpoint: AwsEndpoint, name: str, tasks: int) -> None:
    """Every figure agrees: invocations, requests of each kind, capacity units read and written."""
    counted = count(aws_endpoint, WORKLOADS[name], tasks)
    compared = errors(Counts.of(alone(name, tasks)), counted)
    assert {figure: found for figure, found in compared.items() if found[2]} == {}
    assert compared["invocations"][0] >= 1
