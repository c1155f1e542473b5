"""Measurements of `dispatcher` beside its peers: ``python -m benchmarks``; the method stands in README.md."""
