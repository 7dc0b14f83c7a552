"""Readers and data structures for semantic parsing corpora, one package per corpus."""
