"""What the model of `python -m benchmarks scale` predicts is what the emulator counts for the same work."""

from __future__ import annotations

import pytest

from benchmarks.scale.command import alone
from benchmarks.scale.emulated import Counts, count, errors
from benchmarks.scale.workloads import CHORD, WORKLOADS
from tests.emulation.endpoint import AwsEndpoint

#: By how many calls what is chance may differ: which messages meet in a batch, and what is written before another run.
CHANCE = 3


@pytest.mark.parametrize(
    ("name", "tasks"), [("lean", 40), ("results", 40), ("slow", 1), ("unique", 20), ("hot", 20), ("limited", 40)]
)
def test_requests_and_units_are_those_that_an_endpoint_counts(aws_endpoint: AwsEndpoint, name: str, tasks: int) -> None:
    """Every figure agrees: invocations, requests of each kind, capacity units read and written."""
    counted = count(aws_endpoint, WORKLOADS[name], tasks)
    compared = errors(Counts.of(alone(name, tasks)), counted)
    assert {figure: found for figure, found in compared.items() if found[2]} == {}
    assert compared["invocations"][0] >= 1


def test_a_chord_takes_what_an_endpoint_counts(aws_endpoint: AwsEndpoint) -> None:
    """The launch, members, marks and the body, every figure of them."""
    compared = errors(Counts.of(alone("chords", CHORD)), count(aws_endpoint, WORKLOADS["chords"], CHORD))
    assert {figure: found for figure, found in compared.items() if found[2]} == {}


@pytest.mark.parametrize(("name", "tasks"), [("retries", 60), ("mixed", 20), ("burst", 20)])
def test_what_chance_decides_differs_by_little(aws_endpoint: AwsEndpoint, name: str, tasks: int) -> None:
    """Units and what is sent agree to the last one, the calls of batches that meet otherwise within a few."""
    compared = errors(Counts.of(alone(name, tasks)), count(aws_endpoint, WORKLOADS[name], tasks))
    for figure in ("write units", "read units", "sqs:SendMessageBatch"):
        assert compared[figure][0] == compared[figure][1]
    apart = {figure: expected - found for figure, (expected, found, _) in compared.items()}
    requests = apart.pop("requests of SQS")
    assert abs(requests) <= 3 * CHANCE
    assert {figure: by for figure, by in apart.items() if abs(by) > CHANCE} == {}
