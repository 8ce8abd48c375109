"""Exo2Ego: exocentric knowledge for egocentric video language models."""

__version__ = "0.1.0"
