"""Parsers for assistants: export to a bundle, and the runtime that loads one without torch.

``assistants.runtime`` needs numpy, onnxruntime and tokenizers alone, and for a bundle with a scenario bank faiss and
safetensors as well.
"""
