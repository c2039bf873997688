"""Producers of signals: what may run on schedule, built in or brought by the user."""
