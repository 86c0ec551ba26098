"""The command line: what is asked for, in which order it is decided, and with which exit code it ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from kuberouter import __version__
from kuberouter.daemon import commandline, configfile
from kuberouter.daemon.commandline import Parsed, past
from kuberouter.daemon.config import Config, load, verbosity

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
    try:
        verbosity(str(parsed.values["v"]))
    except ValueError as error:
        return _fail(f"failed to set log level: --v: {error}")
    debug = parsed.positionals[:1] == ("debug",)
    if parsed.positionals and not debug:
        return _fail(f"unrecognized positional argument(s): [{' '.join(parsed.positionals)}]")
    if parsed.values["help"]:
        print(commandline.usage(program), end="")
        return 0
    if parsed.values["version"]:
        print(f"kube-router version {__version__}, Python {sys.version.split()[0]}")
        return 0
    if os.geteuid() != 0:
        return _fail("kube-router changes the network of this host and has to run as root")
    if debug:
        return _debug(parsed)
    merged, errors = configfile.merge(parsed)
    idle = past(merged)
    if merged.values["strict-flags"]:
        errors += idle
    if merged.values["cleanup-config"] and not errors:
        from kuberouter.daemon.cleanup import cleanup

        return cleanup(merged)
    if merged.values["dry-run"] and not merged.values["cleanup-config"]:
        errors.append("--dry-run goes with --cleanup-config")
    config, more = load(merged)
    errors += more
    if config is None or errors:
        return _fail("\n".join(errors))
    if not any((config.proxy, config.router, config.firewall, config.balancer)):
        print("no controller is enabled: nothing to do", file=sys.stderr)
        return 0
    return _run(config, parsed, merged, idle)


def _run(config: Config, line: Parsed, merged: Parsed, idle: list[str]) -> int:
    # Everything below is loaded only to run: --help and --version answer at once.
    from kuberouter.daemon.signals import Signals

    signals = Signals()
    from kuberouter.daemon import logs
    from kuberouter.daemon.lifecycle import start
    from kuberouter.daemon.reload import secrets

    logs.REDACTOR.hide(secrets(merged))
    logs.setup(config.verbosity, config.log_format)
    log = logging.getLogger(__name__)
    log.info("kube-router version %s runs for node %s", __version__, config.node.name)
    for sentence in idle:
        log.warning("%s", sentence)
    return start(config, signals, line, merged)


def _debug(parsed: Parsed) -> int:
    """`kube-router debug VERB [SECONDS]`: ask the daemon that runs."""
    from kuberouter.daemon.debug import VERBS, ask

    verb, path = parsed.positionals[1:2], str(parsed.values["admin-socket"])
    if not verb or verb[0] not in VERBS:
        return _fail(f"kube-router debug what? {', '.join(VERBS)}; for the latter two a number of seconds may follow")
    try:
        print(ask(path, parsed.positionals[1:]), end="")
    except OSError as error:
        return _fail(f"{path}: {error.strerror}; the daemon answers there with --enable-pprof or --admin-socket")
    return 0
