"""Addresses of load balancers to the status of Services, one request each.

It is written only on what it is founded on: if a Service has changed since, the apiserver refuses, and nothing is lost.
"""

from __future__ import annotations

import json

from kuberouter.model.balancer import ServiceStatus
from kuberouter.wire.kubeapi import ApiError, KubeApi


class StatusDriver:
    """Writes `ServiceStatus`."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def write(self, row: ServiceStatus) -> bytes | None:
        """Write one; returns the Service as it is then, None if it has changed meanwhile.

        Raises ApiError, with status 404 where there is no such Service any more, and Unreachable.
        """
        ingress, conditions = (b"[" + b",".join(items) + b"]" for items in (row.ingress, row.conditions))
        body = b'{"metadata":{"resourceVersion":%s},"status":{"loadBalancer":{"ingress":%s},"conditions":%s}}' % (
            json.dumps(row.version).encode(),
            ingress,
            conditions,
        )
        try:
            kind = "application/merge-patch+json"
            return self._api.request("PATCH", f"{self._path(row)}/status", body=body, content_type=kind)
        except ApiError as error:
            if error.status == 409:
                return None
            raise

    def read(self, row: ServiceStatus) -> bytes:
        """The Service as it is now. Raises as `write`."""
        return self._api.request("GET", self._path(row))

    @staticmethod
    def _path(row: ServiceStatus) -> str:
        return f"/api/v1/namespaces/{row.key.namespace}/services/{row.key.name}"
