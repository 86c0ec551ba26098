"""Floor 2: raw bytes to model values or Problems; the only place where input is validated."""
