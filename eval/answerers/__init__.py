"""Models that can be asked: one file per family over the small protocol in `protocol.py`."""
