"""kube-router: plain Linux networking for a Kubernetes node."""

__version__ = "0.1.0"
