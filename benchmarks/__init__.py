"""Measurements that print one JSON document each; run as ``python -m benchmarks.NAME``."""
