"""Span pointer networks (Shrivastava et al. 2021)."""
