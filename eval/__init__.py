"""Evaluation: questions in the EgoBench record format in, per-sample predictions and a report out."""
