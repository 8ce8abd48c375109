"""The Exo2Ego model and its parts."""
