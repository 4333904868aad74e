"""Results that docs and decisions cite, a folder for each benchmark."""
