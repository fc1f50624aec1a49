"""The table of what is solved says what runs left behind, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runs import standings
from runs.cli import main
from runs.config import Config
from runs.standings import arrival, clock, player_of, row_of
from worldmodel.model import ModelConfig

README = f"# A title\n\n{standings.BEGIN}\nold\n{standings.END}\nwhat follows\n"


def line(steps: int, seconds: float, score: float) -> dict[str, Any]:
    return {"env_steps": steps, "episode/success": score, "time": {"seconds": seconds}}


def test_sittings_are_added_up() -> None:
    """Fails where a resumed run seems to have taken no longer than its last sitting."""
    lines = [line(n, s, 0.0) for n, s in ((1, 10), (2, 20), (3, 5), (4, 9), (5, 1))]
    assert clock(lines) == [10, 20, 25, 29, 30]


def test_arrival_by_hand() -> None:
    """Fails where the way is measured from 0, or the last scores are not those of the end."""
    climb = [0.5, 0.5, 0.6, 0.94, 0.96, 1.0, 1.0, 1.0, 1.0, 1.0]
    lines = [line(100 * n, 60.0 * n, score) for n, score in enumerate(climb)]
    assert arrival(lines) == (400, 4.0)
    assert arrival([line(7, 60.0, 0.25)]) == (7, 1.0)


def test_players_by_their_settings() -> None:
    """Fails where a control would be counted as ours."""
    config = Config(env_kwargs={"length": 500})
    assert player_of(config, "tmaze") == "clew"
    window = replace(config, model=ModelConfig(layers=("window:64",)))
    assert player_of(window, None) == "window-64"
    assert player_of(config, "baseline recurrent-ppo") == "recurrent-ppo"
    assert row_of(config).name == "tmaze-500"
    with pytest.raises(ValueError, match="No row is about"):
        row_of(Config(env_kwargs={"length": 499}))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run, as if it had learned in a task of the table."""
    path = shutil.copytree(finished, tmp_path / "run")
    form = json.loads((path / "config.json").read_text())
    del form["sha256"]  # or the change is refused
    form["config"]["env_kwargs"] = {"length": 500}
    (path / "config.json").write_text(json.dumps(form))
    return path


def test_the_table_is_made_of_what_is_kept(run: Path, tmp_path: Path) -> None:
    """Fails where a figure is not that of the evaluation, or text around the table is lost."""
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text(README)
    asked = ["report", "results", "--readme", str(readme), "--results", str(results)]
    assert main([*asked, "--add", str(run)]) == 0
    text = readme.read_text()
    kept = results / "tmaze-500" / "clew" / "seed-0"
    rate = json.loads((kept / "return.json").read_text())["players"]["greedy"]["success"]["rate"]
    assert f"| clew | {100 * rate:.1f} %" in text
    assert text.startswith("# A title")
    assert text.endswith("what follows\n")
    assert "old" not in text
    assert (results / "learning.png").stat().st_size > 1000
    assert main(asked) == 0
    assert readme.read_text() == text


@pytest.mark.parametrize(
    ("readme", "said"), [("no place", "must have the lines"), ("", "keeps no")]
)
def test_mistakes_leave_the_readme_alone(
    readme: str, said: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a README is cut, or an empty table is written."""
    path = tmp_path / "README.md"
    path.write_text(readme or README)
    add = ["--add", str(run)] if readme else []
    asked = ["report", "results", "--readme", str(path), "--results", str(tmp_path / "results")]
    assert main([*asked, *add]) == 2
    assert said in capsys.readouterr().err
    assert path.read_text() == (readme or README)


def test_what_was_not_evaluated_is_not_kept(run: Path, tmp_path: Path) -> None:
    """Fails where a row would lack its score."""
    shutil.rmtree(run / "evaluation")
    with pytest.raises(ValueError, match="clew evaluate"):
        standings.add(run, tmp_path / "results")
