"""Floor 3: pure decisions, from what is known to the rows that should exist."""
