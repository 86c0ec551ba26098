"""The one call of AWS's API that is needed, through its SDK for Python (boto3), which is loaded only then.

EC2, ModifyInstanceAttribute: `SourceDestCheck` is the attribute of an instance with one interface.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from kuberouter.model.core import Unavailable

CONNECT, READ = 5, 15
"""Seconds for a connection and for an answer; who calls tries again."""
MISSING = (
    "the Python package boto3 is not installed: pip install 'kube-router[aws]', or --disable-source-dest-check=false"
)


class Ec2:
    """EC2 as this node's own role may use it: credentials are those of the environment or of the instance."""

    def __init__(self, load: Callable[[str], Any] = importlib.import_module) -> None:
        self._load = load

    def disable_source_check(self, region: str, instance: str) -> None:
        """Have packets of an instance pass that do not carry its addresses. Raises Unavailable with the reason."""
        try:
            sdk, config, errors = map(self._load, ("boto3", "botocore.config", "botocore.exceptions"))
        except ImportError:
            raise Unavailable(MISSING) from None
        once = config.Config(connect_timeout=CONNECT, read_timeout=READ, retries={"total_max_attempts": 1})
        try:
            client = sdk.client("ec2", region_name=region, config=once)
            client.modify_instance_attribute(InstanceId=instance, SourceDestCheck={"Value": False})
        except (errors.BotoCoreError, errors.ClientError) as error:
            raise Unavailable(f"{error}") from error
