"""Who takes part in the storage benchmark."""
