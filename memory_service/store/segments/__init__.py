"""Segment files: records appended one after another, sealed into Zarr groups."""
