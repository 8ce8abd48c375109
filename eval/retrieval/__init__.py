"""Dual encoders and the similarity matrix of a full gallery."""
