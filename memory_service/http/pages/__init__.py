"""Pages for people: what the service holds, in a browser, without scripts and without anything from elsewhere."""
