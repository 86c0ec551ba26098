"""Floor 4: the world speaks, as events."""
