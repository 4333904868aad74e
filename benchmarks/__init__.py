"""Measurements. `layout.py` and `read_layout.py` back docs/decisions/; `storage.py` compares the store with others."""
