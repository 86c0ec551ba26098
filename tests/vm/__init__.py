"""The VM lane: what this host's kernel lacks runs in Debian's own kernel under QEMU."""

from tests.vm.guest import run_in_guest

__all__ = ["run_in_guest"]
