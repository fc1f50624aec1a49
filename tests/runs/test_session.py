"""What a run says on its way: pace, names, commands and verdicts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from rich.console import Console

from runs import folder
from runs.config import Config
from runs.evaluation.returns import verdict
from runs.evaluation.statistics import mean_ci, rate_ci
from runs.progress import Meter, Progress
from runs.recipes import RECIPES, find_recipe
from runs.session import program
from runs.train import Trainer
from worldmodel.spaces import text_leaves


def test_meter_measures_the_last_half_minute() -> None:
    meter = Meter(window=30)
    assert meter.rates() == (0, 0)
    for second in range(101):
        meter.mark(second, 10 * second if second < 50 else 500, 2 * second)
    assert meter.rates() == (0, 2)


def test_progress_is_lines_off_a_terminal_and_a_picture_on_one(
    quick: Callable[..., Config], tmp_path: Path
) -> None:
    config = quick(steps=120)
    for terminal in (False, True):
        trainer = Trainer(config, tmp_path / str(terminal))
        trainer.start()
        console = Console(force_terminal=terminal, width=120)
        with console.capture() as shown, Progress(console, config) as progress:
            trainer.run(on_progress=progress)
        trainer.close()
        said = shown.get()
        assert ("━" in said) == terminal
        assert "steps 120/120" in said or "steps 12" in said
        assert "frames/s" in said
        if not terminal:
            assert len(said.splitlines()) == 3


def test_recipes_hold_together() -> None:
    for name, recipe in RECIPES.items():
        assert find_recipe(name) is recipe
        assert recipe.summary
        assert recipe.cost
    with pytest.raises(ValueError, match=r"no recipe 'cart-pole'\. Nearest: cartpole"):
        find_recipe("cart-pole")


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    with folder.claim(tmp_path / "run", exact=False) as first:
        (first / "something").touch()
    with folder.claim(tmp_path / "run", exact=False) as second:
        assert second == tmp_path / "run-2"
    with pytest.raises(ValueError, match="exists already"), folder.claim(first, exact=True):
        pass
    assert (first / "something").exists()


def test_a_failed_start_leaves_no_folder(tmp_path: Path) -> None:
    def start() -> None:
        with folder.claim(tmp_path / "a" / "run", exact=True) as path:
            (path / "half").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be made"):
        folder.claim(tmp_path / "file" / "run", exact=False).__enter__()


def test_text_is_what_is_not_read() -> None:
    box, text = spaces.Box(0, 1, (2,)), spaces.Text(5)
    nested = spaces.Dict({"a": box, "b": spaces.Dict({"c": text}), "d": spaces.Tuple([box, text])})
    assert text_leaves(nested) == ["b/c", "d/1"]
    assert text_leaves(box) == []


def report(on: list[bool] | list[float], off: list[bool] | list[float]) -> dict[str, Any]:
    """A report on outcomes or returns."""
    parts = []
    for values in (on, off):
        successes = rate_ci([bool(v) for v in values]) if isinstance(values[0], bool) else None
        parts.append({"return": mean_ci(values), "success": successes})
    return {"players": {"greedy": parts[0], "memory_off": parts[1]}}


def test_verdict_says_whether_memory_matters() -> None:
    assert "100.0 % of new episodes, with memory off in 50.0 %: it acts by" in verdict(
        report([True] * 100, [True, False] * 50)
    )
    assert "no clear difference in so many" in verdict(report([True] * 10, [True] * 10))
    assert "mean return of 2, with memory off 1.5" in verdict(report([1.0, 3.0], [1.0, 2.0]))


def test_commands_are_those_the_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [str(tmp_path / "clew")])
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert program("tensorboard") == "tensorboard"
    (tmp_path / "tensorboard").touch()
    assert program("tensorboard") == str(tmp_path / "tensorboard")
