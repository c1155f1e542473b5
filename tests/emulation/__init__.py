"""Stand-ins for AWS and Redis on this machine: real processes on loopback, no Docker, no account (see README.md)."""
