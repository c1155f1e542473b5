"""The numbers that the model of AWS stands on: each with the page that states it, or named an assumption.

Limits that an account may raise are the defaults. Times are seconds.
"""

from __future__ import annotations

from typing import Final

# SQS

#: Messages received and neither deleted nor visible again, of a standard queue and of a FIFO queue.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
IN_FLIGHT: Final = 120_000

# The event source mapping: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html

#: Batches at a time that a mapping starts with, those that it adds in a minute while messages wait, and the most.
FIRST_BATCHES: Final = 5
MORE_BATCHES_A_MINUTE: Final = 300
MOST_BATCHES: Final = 1_250

# Lambda: https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html

#: Invocations at a time of all functions of an account in a region.
ACCOUNT_CONCURRENCY: Final = 1_000
#: Execution environments that a function gets in ten seconds.
ENVIRONMENTS_IN_TEN_SECONDS: Final = 1_000
#: Memory with which a function has one whole CPU, in MiB.
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
ONE_CPU: Final = 1_769

# DynamoDB, on demand

#: Write and read units a second of one partition, and so of one key.
#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
PARTITION_WRITES: Final = 1_000
PARTITION_READS: Final = 3_000
#: What a new table takes of writes a second; four partitions, which take its 12,000 reads as well.
#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/warm-throughput.html
TABLE_WRITES: Final = 4_000
#: A table takes up to twice its earlier peak, once this has passed.
#: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html
DOUBLING_PERIOD: Final = 1_800

# Botocore, in its standard retry mode: tries of a call, and the longest pause between two.
# https://boto3.amazonaws.com/v1/documentation/api/latest/guide/retries.html

SDK_TRIES: Final = 5
SDK_LONGEST_PAUSE: Final = 20.0

# Linux

#: By how much a sleep lasts longer than asked for. https://man7.org/linux/man-pages/man2/pr_set_timerslack.2const.html
TIMER_SLACK: Final = 0.000_05

# Assumptions: no page states them. They move times, not counts.

#: What one call takes inside a region.
SQS_LATENCY: Final = 0.010
DYNAMODB_LATENCY: Final = 0.005
#: CPU of the handler for an invocation and for each record with a whole CPU: the row ``handler-cpu``, rounded up.
INVOCATION_CPU: Final = 0.000_2
RECORD_CPU: Final = 0.000_02
#: CPU of one botocore call.
CALL_CPU: Final = 0.000_5
#: From the invocation to the handler's first line in a new environment: sandbox, interpreter, the row ``handler-init``.
COLD_START: Final = 0.8
#: How long an environment stays that has nothing to do.
ENVIRONMENT_LIFETIME: Final = 600.0
#: The first and the longest pause of a mapping whose invocation was throttled.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0
