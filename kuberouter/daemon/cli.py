"""The command line: what is asked for, in which order it is decided, and with which exit code it ends."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence

from kuberouter import __version__
from kuberouter.daemon import commandline
from kuberouter.daemon.config import load

EXIT_FAILED = 1
EXIT_USAGE = 2


def _fail(message: str, code: int = EXIT_FAILED) -> int:
    print(message, file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run kube-router. Returns 0 when done, 1 for a failure, 2 for a command line that cannot be read."""
    program = os.path.basename(sys.argv[0]) if sys.argv else "kube-router"
    program = "kube-router" if program in ("__main__.py", "-c", "-m") else program
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        parsed = commandline.parse(arguments)
    except commandline.UsageError as error:
        return _fail(f"{error}\n{commandline.usage(program)}", EXIT_USAGE)
    level = str(parsed.values["v"])
    if not re.fullmatch(r"[-+]?[0-9]{1,9}", level):
        return _fail(f"failed to set log level: --v: {level!r} is not a number")
    if parsed.positionals:
        return _fail(f"unrecognized positional argument(s): [{' '.join(parsed.positionals)}]")
    if parsed.values["help"]:
        print(commandline.usage(program), end="")
        return 0
    if parsed.values["version"]:
        print(f"kube-router version {__version__}, Python {sys.version.split()[0]}")
        return 0
    if os.geteuid() != 0:
        return _fail("kube-router changes the network of this host and has to run as root")
    if parsed.values["cleanup-config"]:
        from kuberouter.daemon.cleanup import cleanup

        return cleanup(parsed)
    if parsed.values["dry-run"]:
        return _fail("--dry-run goes with --cleanup-config")
    config, errors = load(parsed)
    if config is None:
        return _fail("\n".join(errors))
    if not any((config.proxy, config.router, config.firewall, config.balancer)):
        print("no controller is enabled: nothing to do", file=sys.stderr)
        return 0
    # Everything below is loaded only to run: --help and --version answer at once.
    from kuberouter.daemon import logs
    from kuberouter.daemon.lifecycle import start

    logs.setup(int(level))
    log = logging.getLogger(__name__)
    log.info("kube-router version %s runs for node %s", __version__, config.node.name)
    if parsed.values["enable-pprof"]:
        log.warning("--enable-pprof has no effect, nothing listens on port 6060; --metrics-port tells what takes time")
    return start(config)
