"""`docs/flags.md` and the help in `docs/user-guide.md`, made of the table of flags; run as a module it writes both."""

from __future__ import annotations

import re
from pathlib import Path

from kuberouter.daemon.commandline import show_duration, usage
from kuberouter.daemon.configfile import COMMAND_LINE_ONLY
from kuberouter.daemon.flags import FLAGS, Flag
from kuberouter.daemon.reload import LIVE
from tests.support.goflags import DIFFERENT, GO_FLAGS

DOCS = Path(__file__).resolve().parents[2] / "docs"
HEAD = """# Flags

What `kube-router --help` says, as a table. It is made of the program's own (`make docs`), and a test compares them.

Each can be written in the file of `--config` too, in YAML: `bgp-port: 179`, `peer-router-ips: [192.0.2.1]`. A flag on
the command line counts before the file, the file before the default. The file is read again on SIGHUP and when it
changes, which is seen within 15 seconds: what is marked *live* counts at once, of the rest the log says that it needs a
restart. A file with a mistake is refused as a whole, and what was before stays in force.

The last column is for who comes from the Go kube-router: *same* is a flag of its with the same default, *new* one that
it does not have. `--cluster-cidr` and `--config-sync-period`, of its early releases, are taken and have no effect, as
the log says once; `--strict-flags` makes them an error.

| Flag | Type | Default | What it does | Change | Go kube-router |
|---|---|---|---|---|---|
"""
KNOWN = {flag.name for flag in GO_FLAGS}


def default(flag: Flag) -> str:
    """A default as it is written on a command line; empty for none."""
    value = flag.default
    if isinstance(value, float):
        return show_duration(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(flag: Flag) -> str:
    name = f"`-{flag.short}`, `--{flag.name}`" if flag.short else f"`--{flag.name}`"
    shown = f"`{default(flag)}`" if default(flag) else ""
    change = "" if flag.name in COMMAND_LINE_ONLY else "live" if flag.name in LIVE else "restart"
    go = DIFFERENT.get(flag.name, "same") if flag.name in KNOWN else "new"
    said = flag.help.replace("|", "\\|")
    return f"| {name} | {flag.kind.label or 'bool'} | {shown} | {said} | {change} | {go} |\n"


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(flag) for flag in sorted(FLAGS, key=lambda flag: flag.name) if not flag.past)


def guide(text: str) -> str:
    """The user guide with the help as it is now."""
    return re.sub(
        r"^```sh\nUsage of .*?^```$",
        lambda _: f"```sh\n{usage('kube-router')}```",
        text,
        count=1,
        flags=re.MULTILINE | re.DOTALL,
    )


def main() -> None:
    """Write both."""
    (DOCS / "flags.md").write_text(page())
    user_guide = DOCS / "user-guide.md"
    user_guide.write_text(guide(user_guide.read_text()))


if __name__ == "__main__":
    main()
