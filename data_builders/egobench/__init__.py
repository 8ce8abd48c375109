"""EgoBench: eight raw datasets as multiple-choice questions (Exo2Ego §3.3, Supplement C)."""
