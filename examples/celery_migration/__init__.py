"""Code as Celery projects have it; the imports are the only lines that were changed."""
