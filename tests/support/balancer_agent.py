"""The allocator of load balancer addresses as a process of its own, with a lease that runs out soon.

Usage: python -m tests.support.balancer_agent URL IDENTITY SECONDS RANGE...
"""

from __future__ import annotations

import logging
import sys
import threading

from kuberouter.daemon.balancer import Balancer
from kuberouter.daemon.sinks import LogSink
from kuberouter.decode.scalars import prefix
from kuberouter.engine.inbox import Inbox
from kuberouter.model.balancer import BalancerSettings
from kuberouter.sources.lease import Elector, LeaseTimes
from kuberouter.wire.kubeapi import connect


def main(url: str, identity: str, seconds: str, *ranges: str) -> None:
    """Work until killed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    api, stop = connect("", url), threading.Event()
    settings = BalancerSettings(tuple(map(prefix, ranges)), namespace="kube-system", identity=identity)
    duration = float(seconds)
    times = LeaseTimes(duration, duration * 2 / 3, duration / 8)
    elector = Elector(api, settings.namespace, identity, times=times)
    threading.Thread(target=elector.run, args=(Inbox(), stop), daemon=True).start()
    Balancer(api, settings, elector, (LogSink(),)).run(Inbox(), stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
