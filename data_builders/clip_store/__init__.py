"""Clips ready to train on: every source video decoded once, what training reads written to tar shards."""
