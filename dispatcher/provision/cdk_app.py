"""The CDK app that ``dispatcher infra cdk`` writes for a start."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from dispatcher.provision.plan import Plan

_TEXT = '''"""The CDK app of {name}, which is yours from here on; `dispatcher infra cdk` wrote it for a start.

    python -m pip install 'serverless-dispatcher[cdk]'
    npx aws-cdk@2 deploy --app "python {output}"

The resources follow from the app's tasks, routes, limits and schedules; `dispatcher infra plan` shows them.
"""

import sys
from pathlib import Path

from aws_cdk import App

from dispatcher.packaging import Package
from dispatcher.provision.cdk import DispatcherStack

ROOT = Path(__file__).resolve().parents[{depth}]
sys.path.insert(0, str({home}))  # where the modules of the app are

app = App()
DispatcherStack(
    app,
    {stack},
    app={app},
    # What the functions run: all that is there, and the wheels of requirements.txt, serverless-dispatcher among them.
    code=Package(project={project}, requirements=ROOT / "requirements.txt"),{stage}
)
app.synth()
'''


def render(plan: Plan, *, source: PurePosixPath, output: PurePosixPath) -> str:
    """Return the text of the app; ``source`` is the app's top package or module, both paths are below the project."""
    return _TEXT.format(
        name=plan.name,
        output=output,
        depth=len(output.parts) - 1,
        home=_below_root(source.parent),
        stack=json.dumps(plan.name if plan.stage is None else f"{plan.name}-{plan.stage}"),
        app=json.dumps(plan.app),
        project=_below_root(source.parent),
        stage="" if plan.stage is None else f"\n    stage={json.dumps(plan.stage)},",
    )


def _below_root(path: PurePosixPath) -> str:
    return " / ".join(["ROOT", *map(json.dumps, path.parts)])
