"""The index of a store: what is where, in SQL."""
