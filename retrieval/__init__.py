"""Scenarios and their retrieval (Shrivastava et al. 2022); its modules arrive with the RAF parser."""
