"""A password shows nowhere but where it is asked for by name."""

from __future__ import annotations

import copy
import json
import logging
import pickle

import msgspec
import pytest

from kuberouter.model.bgp import PeerSpec
from kuberouter.model.core import Secret

SECRET = Secret("hush")
SPEC = PeerSpec(bytes(4), 65001, password=SECRET)


def test_whatever_shows_a_password_shows_stars() -> None:
    logged = logging.LogRecord("name", logging.INFO, "file", 1, "%s %r", (SECRET, SPEC), None).getMessage()
    shown = [
        repr(SECRET),
        str(SECRET),
        f"{SECRET} {SECRET!r:>5}",
        "%s" % SECRET,  # noqa: UP031  # the way that log messages are made
        "{}".format(SECRET),  # noqa: UP032
        SECRET + ",",
        ",".join([SECRET]),
        repr(SPEC),
        repr({"password": SECRET}),
        json.dumps([SECRET]),
        repr(pickle.dumps(SECRET)),
        repr(SECRET.encode()),
        msgspec.json.encode(SPEC, enc_hook=str).decode(),
        logged,
    ]
    assert [text for text in shown if "hush" in text or "***" not in text] == []
    with pytest.raises(TypeError, match="Secret is unsupported"):
        msgspec.json.encode(SPEC)


def test_passwords_compare_by_content_and_with_nothing_else() -> None:
    assert Secret("hush") == SECRET
    assert Secret("hash") != SECRET
    assert hash(SECRET) == hash(Secret("hush"))
    assert PeerSpec(bytes(4), 65001, password=Secret("hush")) == SPEC
    assert PeerSpec(bytes(4), 65001, password=Secret("hash")) != SPEC
    assert SECRET not in ("hush", "***")
    assert copy.deepcopy(SECRET) == copy.copy(SECRET) == SECRET
    assert SECRET.reveal() == "hush"


def test_a_password_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="cannot be changed"):
        SECRET._content = "hash"
