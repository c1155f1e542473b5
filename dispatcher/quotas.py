"""Every AWS limit this package relies on: a named constant with the page that states it.

Sizes are bytes, times seconds. A limit the account may raise is its default.
"""

from __future__ import annotations

from typing import Final

# SQS messages: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html

#: Body and message attributes of one message, and of a whole batch: names, types and values count.
SQS_MAX_MESSAGE_BYTES: Final = 1_048_576
#: Entries of SendMessageBatch, DeleteMessageBatch and ChangeMessageVisibilityBatch; messages of one ReceiveMessage.
SQS_MAX_BATCH: Final = 10
#: Message attributes of one message.
SQS_MAX_ATTRIBUTES: Final = 10
#: ``DelaySeconds`` of a message on a standard queue. On a FIFO queue only the queue has a delay.
SQS_MAX_DELAY: Final = 900
#: Time a message may stay invisible after one receipt; extending it does not move this wall.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html
SQS_MAX_VISIBILITY: Final = 43_200
#: ``WaitTimeSeconds`` of ReceiveMessage.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
SQS_MAX_WAIT: Final = 20
#: The longest ``MessageRetentionPeriod``.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
SQS_MAX_RETENTION: Final = 1_209_600
#: The ``MessageRetentionPeriod`` of a queue that names none; same page.
SQS_DEFAULT_RETENTION: Final = 345_600
#: The largest ``maxReceiveCount`` of a redrive policy.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
SQS_MAX_RECEIVE_COUNT: Final = 1_000
#: Characters of ``MessageGroupId`` and ``MessageDeduplicationId``.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html
SQS_MAX_GROUP_ID_CHARS: Final = 128

# SQS queues: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html

#: Characters of a queue's name, ``.fifo`` included; letters, digits, ``-`` and ``_``.
SQS_MAX_QUEUE_NAME_CHARS: Final = 80
#: Time between two PurgeQueue calls on a queue, and what a purge may take.
#: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html
SQS_PURGE_INTERVAL: Final = 60

# Lambda: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html

#: The longest function timeout (Managed Instances aside).
LAMBDA_MAX_TIMEOUT: Final = 900
#: A queue's visibility timeout should be at least this many times the function's timeout, plus the batching window.
#: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
LAMBDA_VISIBILITY_FACTOR: Final = 6
#: Memory of a function in MiB.
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html
LAMBDA_MIN_MEMORY: Final = 128
LAMBDA_MAX_MEMORY: Final = 10_240
#: Layers of a function.
LAMBDA_MAX_LAYERS: Final = 5
#: ``MaximumConcurrency`` of an event source mapping.
#: https://docs.aws.amazon.com/lambda/latest/api/API_ScalingConfig.html
LAMBDA_MIN_MAPPING_CONCURRENCY: Final = 2
LAMBDA_MAX_MAPPING_CONCURRENCY: Final = 1_000
#: ``BatchSize`` and ``MaximumBatchingWindowInSeconds`` of an event source mapping on a standard queue.
#: https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html
LAMBDA_MAX_BATCH: Final = 10_000
LAMBDA_MAX_BATCHING_WINDOW: Final = 300
#: All variables of a function, names and values.
LAMBDA_MAX_ENVIRONMENT_BYTES: Final = 4_096

# EventBridge: https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html

#: Rules of one event bus.
EVENTBRIDGE_MAX_RULES: Final = 300
#: Characters of a rule's name: letters, digits, ``.``, ``-`` and ``_``; so, too, of a schedule of the Scheduler.
#: https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html
EVENTBRIDGE_MAX_NAME_CHARS: Final = 64

# DynamoDB: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html

#: One item, attribute names included.
DYNAMODB_MAX_ITEM_BYTES: Final = 409_600
#: A partition key's value.
DYNAMODB_MAX_PARTITION_KEY_BYTES: Final = 2_048
#: Keys of one BatchGetItem.
#: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html
DYNAMODB_MAX_BATCH_GET: Final = 100
#: Puts and deletes of one BatchWriteItem.
#: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html
DYNAMODB_MAX_BATCH_WRITE: Final = 25
#: Statements of one BatchExecuteStatement.
#: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchExecuteStatement.html
DYNAMODB_MAX_BATCH_STATEMENTS: Final = 25

# EventBridge Scheduler: https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html

#: ``Input`` of a schedule's target.
#: https://docs.aws.amazon.com/scheduler/latest/APIReference/API_Target.html
SCHEDULER_MAX_INPUT_BYTES: Final = 262_144
#: Seconds after its time within which a schedule fires.
#: https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
SCHEDULER_PRECISION: Final = 60
#: ``MaximumRetryAttempts`` of a schedule.
#: https://docs.aws.amazon.com/scheduler/latest/APIReference/API_RetryPolicy.html
SCHEDULER_MAX_RETRIES: Final = 185
#: Schedules of one page of ListSchedules.
#: https://docs.aws.amazon.com/scheduler/latest/APIReference/API_ListSchedules.html
SCHEDULER_MAX_PAGE: Final = 100

# CloudFormation: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html

#: Resources of one template.
CLOUDFORMATION_MAX_RESOURCES: Final = 500
