"""Where the kernel's settings lie."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(os.environ.get("KUBE_ROUTER_SYSCTL_DIR") or "/proc/sys")
"""In a container that is not privileged `/proc/sys` is read-only: there the node's is mounted once more."""
