"""MTOP (Li et al. 2021, arXiv 2008.09335): eleven domains in six languages."""
