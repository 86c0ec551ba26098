"""The cloud is asked on another thread, told of as any other table, and asked again less and less often."""

from __future__ import annotations

import types
from typing import Any

import pytest

from kuberouter.cluster.store import Cluster
from kuberouter.drivers.cloud import SourceCheckDriver
from kuberouter.engine.dataplane import Dataplane, Table
from kuberouter.engine.journal import Journal
from kuberouter.engine.planner import Planner
from kuberouter.model.core import Batch, ObjectRef, Owner, Rank, Unavailable
from kuberouter.model.host import NoSourceCheck, SourceCheckKey
from kuberouter.model.settings import NodeSettings
from kuberouter.wire.aws import Ec2

KEY = SourceCheckKey("eu-central-1", "i-0aaa")
ROW = NoSourceCheck(KEY)
FORBIDDEN = "UnauthorizedOperation: you are not allowed to"


class Cloud:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.refuses = ""
        self.asked: list[tuple[str, str]] = []

    def disable_source_check(self, region: str, instance: str) -> None:
        self.asked.append((region, instance))
        if self.refuses:
            raise Unavailable(self.refuses)


class World:
    """The table as the engine keeps it, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cloud = Cloud()
        self.driver = SourceCheckDriver(self.cloud, lambda: self.now)
        self.planner = Planner(Cluster(NodeSettings("me")), (), (NoSourceCheck,), Journal())
        self.dataplane = Dataplane([Table(NoSourceCheck, self.driver)], self.planner.ledgers)

    def claim(self) -> None:
        ledger = self.planner.ledgers[NoSourceCheck]
        ledger.claim(Owner("cloud", ObjectRef("Node", "", "me")), [ROW], rank=Rank())
        self.dataplane.converge({NoSourceCheck: ledger.changes()}, synced=(), now=self.now)

    def work(self) -> None:
        """What the other thread does, and the pass that follows."""
        while self.driver.work(0):
            self.dataplane.resync([NoSourceCheck])
        self.dataplane.converge({}, synced=(), now=self.now)

    @property
    def failures(self) -> list[str]:
        return list(self.dataplane.tables[NoSourceCheck].mirror.failures.values())


def test_it_is_asked_once_and_audits_ask_no_more() -> None:
    world = World()
    world.claim()
    assert world.cloud.asked == [], "the engine waits for nobody"
    world.work()
    for _ in range(3):
        world.now += 300
        world.dataplane.resync([NoSourceCheck])
        world.work()
    assert world.cloud.asked == [("eu-central-1", "i-0aaa")]
    assert world.failures == []


def test_a_refusal_is_told_tried_again_and_over_when_it_is_granted() -> None:
    world = World()
    world.cloud.refuses = FORBIDDEN
    world.claim()
    world.work()
    assert world.failures == [FORBIDDEN]
    asked: list[float] = []
    while world.now < 3 * 3600:
        world.now += 30
        before = len(world.cloud.asked)
        world.work()
        world.work()
        asked += [world.now] * (len(world.cloud.asked) - before)
        assert world.failures == [FORBIDDEN], "told once, as long as it is so"
    assert 10 <= len(asked) <= 16, "each time later, up to an hour"
    world.cloud.refuses = ""
    while world.failures:
        world.now += 60
        assert world.now < 5 * 3600
        world.work()
        world.work()
    assert world.driver.read() == [ROW]


def test_an_instance_that_is_no_longer_asked_for_is_left_as_it_is() -> None:
    world = World()
    world.claim()
    world.work()
    assert not world.driver.write(Batch(remove=(ROW,))).failed
    assert world.driver.read() == []
    assert len(world.cloud.asked) == 1


class Sdk:
    """What the call needs of boto3 and botocore."""

    class BotoCoreError(Exception):
        pass

    class ClientError(Exception):
        pass

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[Any] = []

    def load(self, name: str) -> Any:
        return {
            "boto3": types.SimpleNamespace(client=self.client),
            "botocore.config": types.SimpleNamespace(Config=lambda **options: options),
            "botocore.exceptions": self,
        }[name]

    def client(self, service: str, *, region_name: str, config: dict[str, Any]) -> Sdk:
        self.calls.append((service, region_name, config["retries"]))
        return self

    def modify_instance_attribute(self, **words: Any) -> None:
        self.calls.append(words)
        if self.error is not None:
            raise self.error


def test_the_call_is_about_one_instance_and_one_attribute() -> None:
    sdk = Sdk()
    Ec2(sdk.load).disable_source_check("eu-central-1", "i-0aaa")
    assert sdk.calls == [
        ("ec2", "eu-central-1", {"total_max_attempts": 1}),
        {"InstanceId": "i-0aaa", "SourceDestCheck": {"Value": False}},
    ]


@pytest.mark.parametrize("error", [Sdk.ClientError(FORBIDDEN), Sdk.BotoCoreError("no credentials")])
def test_what_the_sdk_says_is_what_is_told(error: Exception) -> None:
    with pytest.raises(Unavailable, match=str(error)):
        Ec2(Sdk(error).load).disable_source_check("eu-central-1", "i-0aaa")


def test_without_the_sdk_it_is_said_how_to_get_it_or_do_without() -> None:
    def load(name: str) -> Any:
        raise ModuleNotFoundError(name)

    with pytest.raises(Unavailable, match=r"pip install 'kube-router\[aws\]', or --disable-source-dest-check=false"):
        Ec2(load).disable_source_check("eu-central-1", "i-0aaa")
