# The image of kube-router: the daemon, gobgpd, and what an operator reaches for on a node.
#
#   docker build --tag kube-router .            for this machine's architecture, or others with buildx --platform
#   make image                                  builds and tries it without a registry of images
#
# Nothing names an architecture: Debian's packages and the wheels of Python's index come for the one that is built for.
# Where the index has no wheel for it, --build-arg COMPILERS="gcc g++ python3-dev" builds them; they stay behind.
# A builder whose network needs more than that has three secrets: apt (a file for APT_CONFIG), pip (one for
# PIP_CONFIG_FILE) and ca (certificates); no layer contains them.
ARG BASE=docker.io/library/debian:bookworm-slim

# What changes least comes first: programs of Debian.
FROM ${BASE} AS programs
RUN --mount=type=secret,id=apt \
    set -eu; if [ -s /run/secrets/apt ]; then export APT_CONFIG=/run/secrets/apt; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    apt-get -q update; \
    apt-get -q install -y --no-install-recommends \
        bash-completion conntrack containernetworking-plugins curl gobgpd iproute2 ipset iptables iputils-ping ipvsadm \
        kmod libnftables1 nftables procps python3 tcpdump; \
    find /usr/lib/cni -type f ! -name bridge ! -name host-local ! -name loopback ! -name portmap -delete; \
    mkdir -p /usr/libexec; ln -s ../lib/cni /usr/libexec/cni; \
    apt-get clean; \
    find /usr/lib/python3* -depth -name __pycache__ -exec rm -r {} +; \
    python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.* || true; \
    rm -rf /usr/sbin/policy-rc.d /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/*.log \
        /var/log/apt

# Python packages: pinned with their hashes, compiled once, without the parts that nothing here loads.
FROM programs AS packages
ARG COMPILERS=
RUN --mount=type=secret,id=apt \
    set -eu; if [ -s /run/secrets/apt ]; then export APT_CONFIG=/run/secrets/apt; fi; \
    apt-get -q update; \
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends python3-venv ${COMPILERS}; \
    python3 -m venv /pip; python3 -m venv --without-pip /opt/kube-router/.venv
COPY image/requirements.lock /pip/
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    set -eu; if [ -s /run/secrets/pip ]; then export PIP_CONFIG_FILE=/run/secrets/pip; fi; \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    venv=/opt/kube-router/.venv; \
    /pip/bin/pip --python "$venv/bin/python" --no-cache-dir --disable-pip-version-check install --quiet --no-compile \
        --prefer-binary --require-hashes --requirement /pip/requirements.lock; \
    site=$(echo "$venv"/lib/python3*/site-packages); \
    rm -rf "$site"/kubernetes/aio; \
    find "$site" -depth \( -name tests -o -name '*.pyi' -o -name '*.pxd' -o -name '*.pyx' \) -exec rm -r {} +; \
    # Models and calls of the API's client are never touched by the daemon, and are two thirds of everything.
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'kubernetes/client/(models|api)/' "$site"

FROM packages AS program
COPY kuberouter /made/kuberouter
COPY cmd /made/cmd
COPY cni /made/cni
COPY LICENSE /made/
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /made/kuberouter

FROM programs
COPY --from=packages /opt/kube-router/.venv /opt/kube-router/.venv
COPY image/root/ /
# This layer is all that another version of kube-router itself changes.
COPY --from=program /made/ /opt/kube-router/
RUN set -eu; \
    for name in kube-router gobgp gobgpd-sidecar cni-install; do \
        ln -s "/opt/kube-router/cmd/$name" "/usr/local/bin/$name"; \
    done; \
    for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do \
        ln -s ../lib/kube-router/iptables "/usr/local/sbin/$name"; \
    done; \
    # What was made for another processor, or is missing, cannot be run: 126 and 127.
    kube-router --version; \
    for program in bash conntrack curl gobgpd gobgp ip ipset iptables-legacy iptables-nft ipvsadm kmod nft ps tcpdump \
        /usr/libexec/cni/*; do \
        timeout 10 "$program" --help < /dev/null > /dev/null 2>&1 || case $? in \
            126 | 127) echo "$program cannot be run" >&2; exit 1 ;; \
        esac; \
    done
ENV PYTHONDONTWRITEBYTECODE=1
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="kube-router" \
      org.opencontainers.image.description="Plain Linux networking for Kubernetes nodes: IPVS service proxy, BGP routes, network policy" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
WORKDIR /root
ENTRYPOINT ["/usr/local/bin/kube-router"]
