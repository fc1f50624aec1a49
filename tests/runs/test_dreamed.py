"""The measure of memory: right about a model that remembers, and about one that does not.

The instrument is held against models whose memory is known: one that keeps the cue for so many
steps and no longer, written out by hand.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from envs.hallway import END, START
from runs.cli import main
from runs.config import Config
from runs.evaluation import dreamed, horizon
from runs.evaluation.suite import Budget, Subject, quiet
from runs.folder import write_config
from runs.train import Trainer
from worldmodel.model import Outcome

WIDTH, ROWS = 12, 400


class Known(NamedTuple):
    """What the model by hand knows: the cue (2: none), how many steps ago it was, and a reward."""

    cue: Tensor
    age: Tensor
    features: Tensor


class Keeper:
    """A hallway by hand: it dreams its end after `width` steps and keeps the cue for `span`."""

    codec = SimpleNamespace(names=["observation"])
    actions = SimpleNamespace(encode=lambda action: F.one_hot(action, 3).float())

    def __init__(self, width: int = WIDTH, span: int = 1000) -> None:
        self.width, self.span = width, span

    def initial(self, rows: int) -> Known:
        return Known(torch.full((rows,), 2), torch.zeros(rows, dtype=torch.long), torch.zeros(rows))

    def observe(self, observation, action, first, carry: Known):
        for frame, begins in zip(
            observation["observation"].unbind(1), first.unbind(1), strict=True
        ):
            cue, age, reward = self.step(carry, begins)
            at_start = frame[:, START] > 0
            shown = frame[:, :2].argmax(-1)
            cue, age = torch.where(at_start, shown, cue), torch.where(at_start, 0, age)
            carry = Known(cue, age, reward)
        return None, carry, None

    def imagine_step(self, carry: Known, action: Tensor, forget: bool):
        answer = action.argmax(-1) - 1
        sure = torch.where(carry.cue == answer, 0.9, 0.1)
        reward = torch.where(carry.cue == 2, 0.4, sure)
        after = self.step(carry, torch.full_like(carry.cue, forget, dtype=torch.bool))
        return after.age, after._replace(features=reward)

    def outcome(self, features: Tensor) -> Outcome:
        return Outcome(features, torch.ones_like(features))

    def step(self, carry: Known, begins: Tensor) -> Known:
        age = carry.age + 1
        cue = torch.where(begins | (age > self.span), 2, carry.cue)
        return Known(cue, age, torch.zeros_like(carry.features))

    def decode(self, latents: Tensor) -> dict[str, Tensor]:
        frames = torch.zeros(len(latents), END + 1)
        frames[:, END] = (latents == self.width).float()
        return {"observation": frames}


def subject_of(model: Keeper, width: int = WIDTH) -> Subject:
    """The model by hand, as what is measured."""
    config = Config(env="clew/Hallway-v0", env_kwargs={"width": width}, model_only=True)
    agent: Any = SimpleNamespace(model=model)
    return Subject(Path(), agent, config)


def measured(model: Keeper) -> dict:
    return dreamed.measure(subject_of(model), Budget(ROWS), quiet)


def test_a_perfect_memory_is_always_right() -> None:
    """Fails where a right prediction is counted as wrong, or a crossing is too long or short."""
    report = measured(Keeper())
    assert {way: report["memory"][way]["rate"] for way in dreamed.WAYS} == dict.fromkeys(
        dreamed.WAYS, 1.0
    )
    assert report["memory"]["free"]["steps"]["quantiles"] == [WIDTH] * 3


def test_without_memory_it_is_a_coin() -> None:
    """Fails where memory off leaves something to remember, or the answer shows in the frames."""
    report = measured(Keeper())
    for way in dreamed.WAYS:
        assert 0.4 < report["memory_off"][way]["rate"] < 0.6, way


@pytest.mark.parametrize(("span", "right"), [(WIDTH, True), (WIDTH - 1, False)])
def test_the_whole_corridor_has_to_be_remembered(span: int, right: bool) -> None:
    """Fails where the cue is asked for a step too early: one step less of memory must show."""
    report = measured(Keeper(span=span))
    for way in dreamed.WAYS:
        rate = report["memory"][way]["rate"]
        assert rate == 1.0 if right else 0.4 < rate < 0.6, way


def test_a_dream_without_end_is_wrong() -> None:
    """Fails where a dream that never arrives is counted as remembering."""
    report = measured(Keeper(width=10 * WIDTH))
    assert report["memory"]["free"]["rate"] == report["memory"]["free"]["arrived"] == 0
    assert report["memory"]["led"]["rate"] == 1
    early = measured(Keeper(width=WIDTH // 2))["memory"]["free"]
    assert early["steps"]["quantiles"] == [WIDTH // 2] * 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the world model alone, too short to have learned anything."""
    path = tmp_path_factory.mktemp("memory") / "run"
    words = "--env clew/Hallway-v0 --env-kwargs width=5 --model-only --steps 150 --prefill 100"
    settings = [*words.split(), "--threads", "1", "--out", str(path.parent), "--name", path.name]
    assert main(["train", "debug", *settings]) == 0
    return path


def test_the_horizon_of_a_model_alone_is_measured_in_its_dreams() -> None:
    """Fails where a dreamed crossing counts as solved beyond what the model keeps."""
    report = horizon.measure(subject_of(Keeper(span=30)), Budget(ROWS, max_steps=300), quiet)
    assert report["horizon"] <= 30 < report["failed"] <= 36


def test_a_run_is_measured_where_it_lies(trained: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where a model cannot be measured beyond the length of its training."""
    asked = ["evaluate", str(trained), "--suite", "dreamed", "--episodes", "10", "--json"]
    assert main([*asked, "--env-kwargs", "width=9"]) == 0
    report = json.loads(capsys.readouterr().out)[str(trained)]["dreamed"]
    assert report["length"] == 9
    (folder,) = trained.glob("evaluation*")
    assert json.loads((folder / "dreamed.json").read_text()) == report


def test_a_task_without_corridor_is_refused(
    quick: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where the measure runs on an environment that it knows nothing of."""
    config = quick(env="CartPole-v1", env_kwargs={}, model_only=True, steps=120, prefill=100)
    write_config(tmp_path, config, None, "torch")
    trainer = Trainer(config, tmp_path)
    trainer.start()
    trainer.save()
    trainer.close()
    assert main(["evaluate", str(tmp_path), "--suite", "dreamed"]) == 2
    assert "has no corridor to cross" in capsys.readouterr().err
