"""One training loop, and what it needs: freeze tables, checkpoints, batch arithmetic, logs."""
