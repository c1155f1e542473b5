"""A cold start: ``python -P benchmarks/startup.py WHAT`` hands back the seconds that importing and initialising took.

Run by its path, so that nothing but the interpreter's own start comes before the clock.
"""

import os
import sys
import time


def botocore() -> None:
    """Import botocore and create the two clients the plain way."""
    import botocore.session

    session = botocore.session.get_session()
    for service in ("sqs", "dynamodb"):
        session.create_client(service, region_name="us-east-1")


def boto3() -> None:
    """Import boto3 and create the two clients."""
    import boto3

    for service in ("sqs", "dynamodb"):
        boto3.client(service, region_name="us-east-1")


def celery() -> None:
    """Import Celery, make an app with one task and finalize it."""
    from celery import Celery

    app = Celery("bench", broker="sqs://")
    app.task(name="tasks.noop")(noop)
    app.finalize()


def noop() -> None:
    """Do nothing."""


def dispatcher() -> None:
    """Import the deployed handler, which loads the app and whatever it needs before the first batch."""
    import dispatcher.lambda_runtime.worker  # noqa: F401


WHAT = {"botocore": botocore, "boto3": boto3, "celery": celery, "dispatcher": dispatcher}


def cpu_since(pid: int, begun: float) -> float:
    """Return the CPU seconds since a reading of `process_time` in process ``pid``: this one, or its parent by now."""
    spent = time.process_time()
    if os.getpid() != pid:  # our handler goes on in a child
        spent += time.clock_gettime((~pid << 3) | 2)  # Linux's number of another process's CPU clock
    return spent - begun


def main(what: str) -> None:
    """Time one of them."""
    pid, wall, cpu = os.getpid(), time.perf_counter(), time.process_time()
    WHAT[what]()
    wall, cpu = time.perf_counter() - wall, cpu_since(pid, cpu)

    from benchmarks.outcome import emit

    emit({"wall": wall, "cpu": cpu})


if __name__ == "__main__":
    main(sys.argv[1])
