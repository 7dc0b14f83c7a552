"""Rows on their way into a training: augmentation and batches."""
