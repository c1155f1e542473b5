"""Making a plan's resources on the endpoint of the environment."""

from __future__ import annotations

import json
from typing import Any

from dispatcher import aws
from dispatcher.config import queue_variable
from dispatcher.local.functions import MappedFunction


def make(plan: Any) -> tuple[list[MappedFunction], dict[str, str]]:
    """Temporary."""
    sqs, dynamodb = aws.client("sqs"), aws.client("dynamodb")
    table = f"{plan.prefix}results"
    try:
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
        )
    except Exception:
        pass
    producer = {
        "DISPATCHER_BROKER_URL": "sqs://",
        "DISPATCHER_RESULT_BACKEND": "dynamodb://",
        "DISPATCHER_TABLE": table,
    }
    functions = []
    variables = dict(producer)

    def create(name, attributes):
        url = sqs.create_queue(QueueName=plan.prefix + name, Attributes=attributes)["QueueUrl"]
        return url, sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    found = []
    for queue in plan.queues:
        fifo = {"FifoQueue": "true"} if queue.fifo else {}
        dead, dead_arn = create(queue.dead, fifo)
        lost, lost_arn = create(
            queue.lost,
            {**fifo, "RedrivePolicy": json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 1000})},
        )
        url, arn = create(
            queue.name,
            {
                **fifo,
                "VisibilityTimeout": str(queue.visibility_timeout),
                "RedrivePolicy": json.dumps(
                    {"deadLetterTargetArn": lost_arn, "maxReceiveCount": queue.max_receive_count}
                ),
            },
        )
        producer[queue_variable(queue.name)] = url
        variables |= {
            queue_variable(queue.name): url,
            queue_variable(queue.lost): lost,
            queue_variable(queue.dead): dead,
        }
        found.append((queue, url, arn, lost, lost_arn))
    for queue, url, arn, lost, lost_arn in found:
        f = queue.function
        env = {**variables, "DISPATCHER_APP": plan.app, **f.environment}
        functions.append(
            MappedFunction(
                queue.name,
                "dispatcher.lambda_runtime.worker.handler",
                env,
                f.timeout,
                f.memory,
                url,
                arn,
                f.batch_size,
                f.batching_window,
                f.maximum_concurrency,
            )
        )
        r = plan.reader
        functions.append(
            MappedFunction(
                queue.name + "-lost",
                "dispatcher.lambda_runtime.dead_letter.handler",
                env,
                r.timeout,
                r.memory,
                lost,
                lost_arn,
                r.batch_size,
                r.batching_window,
                r.maximum_concurrency,
            )
        )
    return functions, producer
