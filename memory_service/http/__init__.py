"""The service over HTTP: routes, bounds, errors, and the bytes of answers."""
