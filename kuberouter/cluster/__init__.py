"""Floor 2: what we know of the cluster, in memory."""
