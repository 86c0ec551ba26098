"""Floor 3: protocols and tool languages; speaks, decides nothing."""
