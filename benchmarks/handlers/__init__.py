"""Lambda handlers under test, each a module with ``handler``, ``body`` and ``ABOUT``, run by ``run.py``."""
