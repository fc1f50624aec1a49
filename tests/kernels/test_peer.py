"""Our scan is transformers' Mamba-2: what `clew bench context` times is the same on both sides."""

from dataclasses import replace

from runs.bench import peer
from runs.bench.figures import Scale, tiny


def test_scan_equals_the_peer() -> None:
    """Fails where the two compute different things, so that their speeds say nothing."""
    found = peer.peer(replace(tiny(Scale()), tokens=1024), print)
    for key in peer.SHAPES:
        assert max(found.series["peer"][key]["relative_difference"].values()) < 1e-5
