"""How a figure is printed."""

from __future__ import annotations

from tests.bench.__main__ import line, main, modules


def test_a_figure_stands_beside_its_target() -> None:
    assert line(("resident", 51.84, 85.0, "MB")) == "bench resident value=51.8MB target=85MB ok"
    assert line(("idle", 1.5, 1.0, "%")) == "bench idle value=1.5% target=1% short"
    assert line(("ipset-fill", 0.0531, 0.1, "ratio")) == "bench ipset-fill ratio=0.0531 target=0.1 ok"


def test_benches_are_found_and_others_refused() -> None:
    assert {"engine", "process"} <= set(modules())
    assert main(["no-such-bench"]) == 2
