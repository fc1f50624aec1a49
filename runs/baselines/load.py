"""From a checkpoint of a baseline to whoever acts by it."""

import json
from pathlib import Path

from runs.baselines.policy import ABOUT, Baseline
from runs.evaluation.play import OraclePlayer, Player, RandomPlayer


def is_baseline(checkpoint: Path) -> bool:
    """Whether a checkpoint holds a baseline, and no agent of ours."""
    return (checkpoint / ABOUT).is_file()


def load_baseline(checkpoint: Path) -> Baseline | Player:
    """The baseline in a checkpoint: an agent, or a player that needs none."""
    about = json.loads((checkpoint / ABOUT).read_text())
    fixed = {"random": RandomPlayer, "oracle": OraclePlayer}
    if about["kind"] in fixed:
        return fixed[about["kind"]]()
    return Baseline.load(checkpoint, about)
