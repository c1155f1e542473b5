"""Small helpers under Celery's module names."""

from __future__ import annotations

import uuid as _uuid


def uuid() -> str:
    """Return a new task id."""
    return str(_uuid.uuid4())


gen_unique_id = uuid
