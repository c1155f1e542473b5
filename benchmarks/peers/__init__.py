"""One module a library: its app, its worker's command line and how a producer talks to it.

Each module exposes ``PEER``. Modules are imported in processes of their own, never by the harness.
"""
