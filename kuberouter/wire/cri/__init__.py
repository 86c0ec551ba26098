"""The container runtime of this node (CRI, runtime.v1), over its unix socket: which containers run, and where."""
