"""Corpora, one folder each, and what turns rows into training batches; mathematics only, no Lightning."""
