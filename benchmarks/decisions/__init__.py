"""The tables of docs/decisions/."""
