"""Floor 5: composes, serves, exits."""
