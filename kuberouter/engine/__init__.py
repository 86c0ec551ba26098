"""Floor 4: the synchronous heart: planner, ledger, mirror, dataplane."""
