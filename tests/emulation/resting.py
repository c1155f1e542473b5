"""What may be left in a queue of SQS when all is done: messages of failed tasks, at rest."""

import json
import time

from dispatcher import states
from dispatcher.backends.base import ResultBackend
from tests.emulation.endpoint import AwsEndpoint

#: What comes this much later or more, in seconds, is at rest: leases of workers in tests are shorter.
_AT_REST = 10.0


def failures_at_rest(aws: AwsEndpoint, url: str, backend: ResultBackend) -> list[str] | None:
    """Return the ids of failed tasks whose messages rest in a queue, `None` as long as there is anything else in it.

    SQS may hand a message to two workers at once. So whoever finds a failure in the record leaves its message alone
    for as long as whoever recorded it may take to bury it: up to 15 minutes. Burying it leases it for a minute.
    """
    left = aws.messages(url)
    if any(message["VisibleAt"] < time.time() + _AT_REST for message in left):
        return None
    ids = {json.loads(message["Body"])["id"] for message in left}
    failed = {task_id for task_id, record in backend.read(list(ids)).items() if record.status == states.FAILURE}
    return sorted(ids) if ids == failed else None
