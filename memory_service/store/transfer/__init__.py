"""Whole buffers and stores as files, on their way out and in: export, import, backup."""
