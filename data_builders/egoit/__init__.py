"""EgoIT: five raw datasets as instruction conversations (Exo2Ego §3.2, Table 11)."""
