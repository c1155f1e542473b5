"""The CDK app of this repository: the shop of `examples/`, as `template.yaml` lays it out.

npx aws-cdk@2 deploy --app "python infra/app.py"

Needs the extra ``cdk`` of the package, and Node. ``-c code=<directory>`` deploys a package that is built already.
"""

import sys
from pathlib import Path

from aws_cdk import App

from dispatcher.packaging import Package
from dispatcher.provision.cdk import DispatcherStack

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

app = App()
code = app.node.try_get_context("code") or Package(
    [ROOT / "dispatcher", ROOT / "handlers", ROOT / "examples" / "shop.py"], ROOT / "handlers" / "requirements.txt"
)
DispatcherStack(app, "shop", app="shop:app", code=code)
app.synth()
