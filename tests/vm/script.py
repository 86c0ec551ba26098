"""What a guest does before and after its command: the host's files, read once; modules; output and status in files.

The guest's root is the host's by 9p, which asks the host again at every look at a file. That makes an emulated guest
slow: Python takes seconds to start. So what programs are made of is mounted a second time, with a cache.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

TAG = "cached"
DEVICE = (
    f"-fsdev local,id={TAG},path=/,security_model=none,readonly=on,multidevs=remap "
    f"-device virtio-9p-pci,fsdev={TAG},mount_tag={TAG}"
)
"""Arguments of QEMU for the second look at the host's root."""
FAST = ("tsc=reliable", "mitigations=off")
"""Kernel parameters for an emulated guest, which is of use to no attacker.

Without the first it reads its clock from an emulated HPET, a matter of microseconds each time.
"""
MODULES = (
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_sh",
    "dummy",
    "ipip",
    "ip6_tunnel",
    "fou",
    "fou6",
    "br_netfilter",
    "ip_set_hash_ip",
    "ip_set_hash_net",
    "ip_set_hash_ipport",
    "ip_set_hash_ipportnet",
    "ip_set_hash_netport",
    "xt_set",
    "xt_ipvs",
    "xt_comment",
    "nf_conntrack_netlink",
    "sctp",
    "veth",
    "bridge",
)
_SCRIPT = """#!/bin/sh
export PATH={path} HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 KUBE_ROUTER_GUEST=1 {environment}
over() {{  # the cached directory, changes to which are the guest's own
    mkdir -p "/run/changes$1" "/run/work$1"
    mount -t overlay -o "lowerdir=/run/host$1,upperdir=/run/changes$1,workdir=/run/work$1" overlay "$1"
}}
mount -t tmpfs tmpfs /run 2>/dev/null; mkdir -p /run/netns /run/lock /run/host /run/build /run/modules
if mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,access=any,cache=loose {tag} /run/host; then
    mount --bind {build} /run/build
    mount --rbind /lib/modules /run/modules
    over /etc; over /usr
    mount -t tmpfs tmpfs /tmp
    for place in {places}; do mkdir -p "$place"; mount --bind "/run/host$place" "$place"; done
    mount --bind /run/build {build}
    mkdir -p /lib/modules; mount --rbind /run/modules /lib/modules
fi
modprobe -qa {modules}
ip link set lo up
cd {root}
{command} >{output} 2>&1
echo $? >{status}.draft
mv {status}.draft {status}
sync
"""


def script(
    argv: Iterable[str], root: Path, *, path: str, environment: Mapping[str, str], image: Path, folder: Path
) -> str:
    """The script for a command in the checkout `root`, below which nothing but `build` can be written.

    `folder`, in `build`, gets `output` and `status`; `image` is the kernel's, with its modules beside it.
    """
    programs = (Path(sys.base_prefix), Path(sys.prefix), image.parents[1])
    elsewhere = [place for place in programs if not any(place.is_relative_to(known) for known in (root, "/usr"))]
    return _SCRIPT.format(
        path=path,
        environment=" ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items()),
        tag=TAG,
        places=shlex.join(map(str, (root, *elsewhere))),
        modules=" ".join(MODULES),
        root=root,
        build=root / "build",
        command=shlex.join(argv),
        output=folder / "output",
        status=folder / "status",
    )
