"""Floor 4: rows to the world: read, owns, write."""
