"""Measurements. `codecs.py` and `read_layout.py` back docs/decisions/; `storage.py` compares the store with others."""
