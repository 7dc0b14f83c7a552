"""TOP, the corpus of Gupta et al. 2018 ("Semantic parsing for task oriented dialog using hierarchical representations")."""
