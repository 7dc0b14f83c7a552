"""Conv NAR: the LightConv Pointer parser (Babu et al. 2021, "Non-Autoregressive Semantic Parsing for Compositional
Task-Oriented Dialog")."""
