"""Rehearsals of ingest: the trials that ``benchmarks.ingest`` runs, each a process of its own."""
