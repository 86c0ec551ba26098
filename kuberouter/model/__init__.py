"""Floor 1: nouns and protocols, frozen values without behaviour."""
