"""Additions under Celery's module names."""
