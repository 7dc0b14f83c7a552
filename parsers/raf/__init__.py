"""RAF: retrieve a scenario, fill its spans (Shrivastava et al. 2022)."""
