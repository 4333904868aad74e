"""What is done to whole stores and buffers: verify, repair, backup, export, import."""
