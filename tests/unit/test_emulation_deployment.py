"""A deployment carries the package, the user's modules and the variables by which both sides find each other."""

import json
import time
from pathlib import Path

from tests.emulation.deployment import deploy
from tests.emulation.endpoint import AwsEndpoint

APP = """
import json, os
import boto3
import dispatcher, msgpack, yaml, aws_lambda_powertools  # noqa: what a deployed function needs is there

table = boto3.resource("dynamodb").Table(os.environ["DISPATCHER_TABLE"])

def handler(event, context):
    for record in event["Records"]:
        table.put_item(Item={"pk": record["body"], "sk": "-", "environment": json.dumps(dict(os.environ))})
    return {"batchItemFailures": []}
"""


def test_deployed_app_finds_its_queues_and_its_table(aws_endpoint: AwsEndpoint, tmp_path: Path) -> None:
    """The function runs with the package and sees the same addresses as a producer."""
    (tmp_path / "shop.py").write_text(APP)
    deployment = deploy(
        aws_endpoint,
        app="shop:app",
        sources=[tmp_path / "shop.py"],
        queues=("default", "orders.fifo"),
        handler="shop.handler",
    )
    variables = deployment.environment()
    aws_endpoint.client("sqs").send_message(QueueUrl=variables["DISPATCHER_QUEUE_URL_DEFAULT"], MessageBody="one")
    aws_endpoint.client("sqs").send_message(
        QueueUrl=variables["DISPATCHER_QUEUE_URL_ORDERS_FIFO"],
        MessageBody="two",
        MessageGroupId="g",
        MessageDeduplicationId="d",
    )
    dynamodb = aws_endpoint.client("dynamodb")
    while len(items := dynamodb.scan(TableName=deployment.table, ConsistentRead=True)["Items"]) < 2:
        time.sleep(0.02)
    assert {item["pk"]["S"] for item in items} == {"one", "two"}
    seen = json.loads(items[0]["environment"]["S"])
    assert seen["DISPATCHER_APP"] == "shop:app"
    shared = {name for name in variables if name.startswith("DISPATCHER_")} | {"AWS_ENDPOINT_URL"}
    assert {name: seen[name] for name in shared} == {name: variables[name] for name in shared}
    assert variables["DISPATCHER_QUEUE_URL_ORDERS_DEAD_FIFO"] == deployment.queues["orders.fifo"].dead
