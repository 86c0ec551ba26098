"""From parsed options to a running node and back: start order, supervision of threads, signals, shutdown.

Stopping leaves the dataplane as it is: traffic goes on, the next start adopts what it finds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence

from kuberouter.daemon import limits, narrator
from kuberouter.daemon.access import access_of
from kuberouter.daemon.commandline import Parsed, show_duration
from kuberouter.daemon.compose import Composition, compose
from kuberouter.daemon.config import Config
from kuberouter.daemon.debug import DebugSocket
from kuberouter.daemon.presence import announce
from kuberouter.daemon.reload import Reloader
from kuberouter.daemon.signals import Signals
from kuberouter.daemon.supervise import supervise
from kuberouter.daemon.watchdog import LOOK, Herald, Watchdog
from kuberouter.daemon.web import HealthServer, MetricsServer
from kuberouter.engine.loop import ControllerState
from kuberouter.model.core import Unavailable
from kuberouter.wire import command

log = logging.getLogger(__name__)

LOOPS = {"lease": "lease of the allocator", "loadbalancer": "allocator"}
"""What the log calls loops that are not called like their threads."""
LAST_WRITE = 5.0
"""Seconds for which the end waits for the request to the apiserver that the allocator, or its lease, is at."""


class Health:
    """What the health endpoints say: alive while the loops get on, ready as the controllers are."""

    def __init__(self, composition: Composition) -> None:
        self._composition = composition

    def alive(self) -> bool:
        """Whether every loop gets on without which the daemon does not do its work."""
        return all(pulse.alive() for pulse in self._composition.pulses.values())

    def readiness(self) -> Sequence[tuple[str, bool, str]]:
        """Each controller's name, whether it is ready, and why not."""
        balancer = self._composition.balancer
        others = [balancer.state()] if balancer is not None else []
        return [*(self._explain(state) for state in self._composition.engine.states), *others]

    def startup(self) -> Sequence[tuple[str, bool, str]]:
        """Each controller's name, whether the engine has turned with it yet, and what it is not ready for.

        What a controller waits for is outside of the process, which a new start would not bring about sooner.
        """
        engine = self._composition.engine
        return [(name, engine.turned, reason) for name, _, reason in self.readiness()]

    def pod(self, name: str) -> tuple[int, str]:
        """Whether policy is in force for a pod."""
        pods = self._composition.pods
        return pods.show(name) if pods is not None else (404, f"{name}: the firewall is turned off (--run-firewall)\n")

    def _explain(self, state: ControllerState) -> tuple[str, bool, str]:
        reasons = [state.reason, *self._composition.source_errors(state.name)] if not state.ready else []
        return state.name, state.ready, "; ".join(reason for reason in reasons if reason)


def start(config: Config, signals: Signals, line: Parsed, now: Parsed) -> int:
    """Bind the ports, put the node together, run it; returns the exit code.

    `line` is the command line, `now` the same together with the file that it names.
    """
    limits.apply()
    command.observers.append(narrator.ran)
    presence = announce()
    if presence is None:
        log.warning("another kube-router runs on this node; two of them undo each other's work")
    metrics: MetricsServer | None = None
    server: HealthServer | None = None
    if config.health_port:
        try:
            server = HealthServer(config.health_address, config.health_port)
        except OSError as error:
            log.error("--health-port: %s: %s", _place(config.health_address, config.health_port), error.strerror)
            return 1
    if (asked := config.metrics) is not None:
        try:
            access = access_of(asked)
        except ValueError as error:
            log.error("%s", error)
            return 1
        try:
            metrics = MetricsServer(asked.address, asked.port, asked.path, access)
        except OSError as error:
            log.error("--metrics-port: %s: %s", _place(asked.address, asked.port), error.strerror)
            return 1
    if config.admin_socket and not _debug(config.admin_socket, traced=bool(now.values["enable-pprof"])):
        return 1
    try:
        composition = compose(config)
    except Unavailable as error:
        log.error("%s", error)
        return 1
    if server is not None:
        server.serve(Health(composition))
    if metrics is not None and composition.telemetry is not None:
        metrics.serve(composition.telemetry.page)
    # A directory is there or not, and whoever fills it may take their time.
    reloader = Reloader(line, now, composition.clocks)
    return run(composition, signals, reloader, patience=0.0 if config.manifests else config.patience)


def _debug(path: str, *, traced: bool) -> bool:
    """Whether who may is answered there; `traced` has memory followed from now on."""
    try:
        DebugSocket(path)
    except OSError as error:
        log.error("--admin-socket: %s: %s", path, error.strerror)
        return False
    if traced:
        import tracemalloc

        tracemalloc.start()
    log.info("kube-router debug is answered on %s%s", path, ", memory from now on included" if traced else "")
    return True


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def run(composition: Composition, signals: Signals, reloader: Reloader, *, patience: float = 0.0) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code.

    With `patience`, in seconds, it ends when API objects that a controller needs are not all known by then: whoever
    starts it sees so.
    """
    if signals.ended():
        return _ended(signals)
    stop = threading.Event()
    threads = [
        threading.Thread(target=supervise, args=(source, composition.inbox, stop), name=source.name, daemon=True)
        for source in composition.sources
    ]
    engine = threading.Thread(target=composition.engine.run, args=(stop,), name="engine", daemon=True)
    for thread in (*threads, engine):
        thread.start()
    code = _attend(
        composition, signals, reloader, watchdogs=_watchdogs(composition, (engine, *threads)), patience=patience
    )
    if signals.ended():
        _ended(signals)
    stop.set()
    composition.inbox.wake()
    engine.join(10.0)
    if (balancer := composition.balancer) is not None:
        # What it writes just now has to be there before another leads; and who still renews would take the lease again.
        for thread in threads:
            if thread.name in (balancer.name, balancer.elector.name):
                thread.join(LAST_WRITE)
        balancer.elector.release()
    return code


def _ended(signals: Signals) -> int:
    log.info("%s received; stopping, the dataplane stays as it is", signals.ended())
    return 0


def _watchdogs(composition: Composition, threads: Iterable[threading.Thread]) -> list[Watchdog]:
    """One for each loop that has a pulse."""
    pulses = composition.pulses
    return [
        Watchdog(pulses[thread.name].alive, thread, f"the loop of the {LOOPS.get(thread.name, thread.name)}")
        for thread in threads
        if thread.name in pulses
    ]


def _attend(
    composition: Composition,
    signals: Signals,
    reloader: Reloader,
    *,
    watchdogs: Sequence[Watchdog],
    patience: float,
) -> int:
    """Look now and then at the loops and at the configuration, until a signal, or what is missing, ends it."""
    herald = Herald(Health(composition).readiness)
    began = last = time.monotonic()
    waiting = patience > 0
    while True:
        rest = min(LOOK, began + patience - time.monotonic()) if waiting else LOOK
        if signals.wait(rest):
            return 0
        if signals.reload() or reloader.changed():
            reloader.reload()
        now = time.monotonic()
        if waiting and now - began >= patience:
            waiting = False
            if lacking := composition.lacking():
                text = "; ".join(lacking)
                log.error("--cache-sync-timeout: after %s there is no answer for %s", show_duration(patience), text)
                return 1
        if now - last >= LOOK:
            for watchdog in watchdogs:
                watchdog.look()
            herald.look()
            last = now
