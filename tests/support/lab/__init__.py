"""A cluster in a box: nodes, pods, fabric, apiserver and daemons as namespaces and processes of one machine.

Tests and the demo share it. Everything that a lab makes carries its unique prefix and goes when the lab closes.
"""

from tests.support.lab.cluster import Lab
from tests.support.lab.node import Node
from tests.support.lab.pods import Pod

__all__ = ["Lab", "Node", "Pod"]
