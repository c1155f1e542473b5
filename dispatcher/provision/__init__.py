"""What an app needs in AWS, worked out from the app itself: plan, resources, templates, checks.

`plan` looks at an app and at nothing else; `resources` turns the plan into CloudFormation-shaped resources. The SAM
template, the CDK constructs, ``infra check`` and ``infra apply`` are all derived from those, so they cannot disagree.
"""

from dispatcher.provision.plan import (
    Plan,
    PlannedBucket,
    PlannedFunction,
    PlannedQueue,
    PlannedSchedule,
    PlannedTask,
    plan,
)

__all__ = ["Plan", "PlannedBucket", "PlannedFunction", "PlannedQueue", "PlannedSchedule", "PlannedTask", "plan"]
