"""Measurements: every script prints a table and writes a JSON file under ``results/``."""
