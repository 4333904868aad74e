"""Measurements, a room for each question; README.md says which command answers what."""
