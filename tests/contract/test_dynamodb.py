"""The DynamoDB backend under contract, over HTTP."""

from __future__ import annotations

import pytest

from tests.contract.backend_contract import BackendContract
from tests.contract.harness import Kind, Recipe
from tests.emulation.endpoint import AwsEndpoint


class TestDynamoDBBackend(BackendContract):
    """The backend contract, kept by `DynamoDBBackend`."""

    @pytest.fixture
    def kind(self, aws_env: AwsEndpoint) -> Kind:
        """A table that the first write makes."""
        return Kind(Recipe("dispatcher.backends.dynamodb:DynamoDBBackend", "dynamodb://contract"))
