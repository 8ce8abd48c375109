"""Ego-ExoClip from raw Ego-Exo4D annotations: filters, clip rule, table, statistics (Exo2Ego §3.1 and Supplement A)."""
