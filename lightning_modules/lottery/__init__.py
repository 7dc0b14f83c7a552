"""Lottery tickets: sparse subnetworks found in one domain and trained again in another.

Frankle and Carbin 2019 (arXiv 1803.03635); under distribution shift, Desai, Zhan and Aly 2019 (arXiv 1910.12708).
"""
