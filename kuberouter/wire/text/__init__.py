"""Languages of command line tools: rendering and parsing, no processes."""
