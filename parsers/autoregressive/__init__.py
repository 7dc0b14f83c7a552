"""Autoregressive pointer network: the accuracy to beat, at the price of a pass for every token."""
