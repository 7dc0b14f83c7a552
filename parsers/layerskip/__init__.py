"""LayerSkip: a causal language model that drafts with its own early layers (Elhoushi et al. 2024, arXiv 2404.16710)."""
