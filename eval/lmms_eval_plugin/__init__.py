"""EgoBench as tasks of lmms-eval, and an Exo2Ego model as one of its models (docs/lmms_eval.md)."""
