"""Scenarios and their retrieval (Shrivastava et al. 2022)."""
