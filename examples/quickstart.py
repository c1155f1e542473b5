"""The least there is: an app, a task, a call, a result.

    python examples/quickstart.py

It starts the worker itself, which is otherwise a command in a terminal of its own: ``dispatcher -A quickstart worker``.
"""

import subprocess
import sys
from pathlib import Path

from dispatcher import Dispatcher

app = Dispatcher("quickstart")  # broker and results: an embedded SQLite file, until you name others


@app.task(autoretry_for=(ConnectionError,), retry_backoff=True, max_retries=5)
def charge(order_id: int, amount: float) -> str:
    """Charge a card; lost connections are tried again, after 1, 2, 4 … seconds."""
    return f"order {order_id}: charged {amount:.2f}"


if __name__ == "__main__":
    worker = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "-A", "quickstart", "worker", "-c", "1"], cwd=Path(__file__).parent
    )
    try:
        result = charge.delay(42, amount=9.9)
        print(result.get(timeout=30))
    finally:
        worker.terminate()
        worker.wait()
