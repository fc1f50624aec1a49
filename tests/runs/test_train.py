"""A run learns, and one that was interrupted or killed goes on as if it had not been."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from agent.learner import NonFiniteError
from envs import EnvFailedError, TMaze
from runs import checkpoint
from runs.config import Config
from runs.crash import CrashError
from runs.device import pick_scan
from runs.train import Trainer, to_records
from worldmodel.layers import Scan
from worldmodel.long_context import LongContextConfig

Quick = Callable[..., Config]


class KilledError(Exception):
    """Stands for a kill -9: nothing is saved on the way out."""


def train(
    config: Config, folder: Path, on_progress: Any = None, resume: Path | None = None
) -> Trainer:
    """A new run, or one that goes on from a checkpoint, to its end."""
    trainer = Trainer(config, folder)
    try:
        if resume:
            torch.rand(7)  # what the process did before must not matter
            trainer.resume(resume)
        else:
            trainer.start()
        trainer.run(on_progress=on_progress)
    finally:
        trainer.close()
    return trainer


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time"} for line in lines]


def stop_at(step: int) -> Callable[[Trainer], None]:
    """Ask for the end as Ctrl-C does."""

    def on_progress(trainer: Trainer) -> None:
        trainer.stop = trainer.env_steps >= step

    return on_progress


def kill_at(step: int) -> Callable[[Trainer], None]:
    """End without a word."""

    def on_progress(trainer: Trainer) -> None:
        if trainer.env_steps >= step:
            raise KilledError

    return on_progress


def assert_same_run(one: Path, other: Path) -> None:
    """All metrics, and all that the last checkpoint holds, are the same bits."""
    assert metrics(one) == metrics(other)
    ends = [checkpoint.complete(folder)[-1] for folder in (one, other)]
    assert ends[0].name == ends[1].name
    for file in ("agent.safetensors", "learner.safetensors", "state.safetensors"):
        ours, theirs = (load_file(end / file) for end in ends)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes(), (file, name)
    states = [json.loads((end / "state.json").read_text()) for end in ends]
    for state in states:
        del state["telemetry"]["bytes"]  # seconds are written in more digits or fewer
    assert states[0] == states[1]


def test_debug_recipe_trains(quick: Quick, tmp_path: Path) -> None:
    trainer = train(quick(), tmp_path)
    lines = metrics(tmp_path)
    assert [line["env_steps"] // 40 for line in lines] == list(range(1, 9))
    assert trainer.learner.updates == lines[-1]["updates"] > 10
    assert {"model", "actor", "critic", "recall"} <= lines[-1].keys()
    assert any("episode/success" in line for line in lines)
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["reconstruction"] < lines[2]["reconstruction"]
    assert list((tmp_path / "tensorboard").iterdir())
    assert len(checkpoint.complete(tmp_path)) == trainer.config.keep


def test_the_last_stretch_is_told_as_well(quick: Quick, tmp_path: Path) -> None:
    end = train(quick(steps=150), tmp_path).env_steps
    assert [line["env_steps"] // 40 for line in metrics(tmp_path)] == [1, 2, 3, 3]
    assert metrics(tmp_path)[-1]["env_steps"] == end >= 150
    train(quick(steps=200), tmp_path, None, checkpoint.complete(tmp_path)[-1])
    steps = [line["env_steps"] for line in metrics(tmp_path)]
    assert steps == sorted(set(steps))
    assert steps[3] == end
    assert steps[-1] >= 200


def test_an_environment_that_fails_as_it_is_replayed_is_not_a_damaged_checkpoint(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(quick(steps=120), tmp_path)

    def fails(self: TMaze, *, seed: Any = None, options: Any = None) -> None:
        raise KeyError("of the environment")

    monkeypatch.setattr(TMaze, "reset", fails)
    with pytest.raises(KeyError, match="of the environment"):
        train(quick(), tmp_path, None, checkpoint.complete(tmp_path)[-1])


def test_the_seed_decides_everything(quick: Quick, tmp_path: Path) -> None:
    config = quick(steps=160)
    train(config, tmp_path / "a")
    train(config, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(quick(steps=160, seed=1), tmp_path / "c")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")


LONG = LongContextConfig(
    window=8, gradient=16, curriculum=(8,), curriculum_updates=6, clean_prefix=0.3
)
RUNS: dict[str, dict[str, Any]] = {
    "tmaze": {},
    "cartpole": {"env": "CartPole-v1", "env_kwargs": {}},
    "long": {"context": LONG},
    "exploring": {"explore": 0.3},
    "model": {"context": LONG, "model_only": True, "env": "clew/Hallway-v0", "env_kwargs": {}},
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_interrupted_and_resumed_equals_uninterrupted(
    quick: Quick, tmp_path: Path, run: dict[str, Any]
) -> None:
    config = quick(**run)
    train(config, tmp_path / "whole")
    folder = tmp_path / "parts"
    for step in (90, 170, 270):  # before the first update, amid a line, after a checkpoint
        newest = checkpoint.complete(folder)[-1:]
        stopped = train(config, folder, stop_at(step), *newest)
        assert step <= stopped.env_steps < config.steps
    train(config, folder, None, checkpoint.complete(folder)[-1])
    assert_same_run(tmp_path / "whole", folder)


def test_a_run_on_a_dataset_goes_on_as_if_it_had_not_stopped(
    quick: Quick, recorded: Path, tmp_path: Path
) -> None:
    """Fails where a resumed run plays other episodes, or the environment instead of them."""
    config = quick(dataset=str(recorded), model_only=True, num_envs=3)
    train(config, tmp_path / "whole")
    assert {line["episode/return"] for line in metrics(tmp_path / "whole")} == {1.0}
    folder = tmp_path / "parts"
    with pytest.raises(KilledError):
        train(config, folder, kill_at(150))
    for step in (170, 270):
        train(config, folder, stop_at(step), checkpoint.complete(folder)[-1])
    train(config, folder, None, checkpoint.complete(folder)[-1])
    assert_same_run(tmp_path / "whole", folder)


def test_the_curriculum_reaches_the_batches(quick: Quick, tmp_path: Path) -> None:
    """Fails where contexts are as long as at the end from the first update on."""
    lengths = []

    def watch(trainer: Trainer) -> None:
        sample = trainer.replay.sample
        if "watched" not in vars(trainer):
            vars(trainer)["watched"] = True
            trainer.replay.sample = lambda context: lengths.append(context) or sample(context)

    trainer = train(quick(context=LONG), tmp_path, watch)
    assert lengths == [8] * 6 + [32] * (len(lengths) - 6)
    assert trainer.learner.updates == len(lengths) > 7


@pytest.mark.parametrize("back", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(quick: Quick, tmp_path: Path, back: int) -> None:
    """Lines and records written after the checkpoint are written anew."""
    config = quick()
    train(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(KilledError):
        train(config, folder, kill_at(290))
    written = len(metrics(folder))
    older = checkpoint.complete(folder)[-back]
    for path in checkpoint.complete(folder)[len(checkpoint.complete(folder)) - back + 1 :]:
        shutil.rmtree(path)
    killed = train(config, folder, stop_at(0), older)  # one step, to see lines dropped
    assert killed.env_steps < 290
    assert len(metrics(folder)) < written
    train(config, folder, None, checkpoint.complete(folder)[-1])
    assert_same_run(tmp_path / "whole", folder)


def test_a_half_written_checkpoint_is_not_one(quick: Quick, tmp_path: Path) -> None:
    train(quick(steps=120), tmp_path)
    newest = checkpoint.complete(tmp_path)[-1]
    (newest / "done").unlink()
    assert newest not in checkpoint.complete(tmp_path)


def test_settings_that_do_not_fit_leave_nothing(quick: Quick, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for wrong in ({"env": "Nowhere-v0"}, {"device": "abacus"}, {"env_kwargs": {"lenth": 3}}):
        with pytest.raises(ValueError, match=r"Nowhere|abacus|lenth"):
            Trainer(quick(**wrong), folder)
    assert not folder.exists()


def poison_batch(trainer: Trainer) -> None:
    """Makes the next batch from replay hold a reward that is not a number."""
    sample = trainer.replay.sample

    def poisoned(context: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        batch, continues = sample(context)
        batch["reward"][0, 3] = np.nan
        return batch, continues

    trainer.replay.sample = poisoned


def test_a_loss_that_is_not_finite_is_saved_and_can_be_repeated(
    quick: Quick, tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    def on_progress(trainer: Trainer) -> None:
        seen["updates"] = trainer.learner.updates
        scale = trainer.learner.behaviour.scale.state_dict()
        seen["scale"] = {name: value.clone() for name, value in scale.items()}
        if trainer.env_steps >= 160:
            poison_batch(trainer)

    config, crash = quick(update_skips=0), tmp_path / "crash"
    with pytest.raises(CrashError, match=r"loss of the \w+ is not finite, at update \d+") as info:
        train(config, tmp_path, on_progress)
    assert str(crash) in str(info.value)
    batch = load_file(crash / "batch.safetensors")
    assert json.loads((crash / "crash.json").read_text())["batch"]["reward"] == ["float32", [8, 32]]

    again = Trainer(config, tmp_path / "again")
    checkpoint.load(crash, again.agent, again.learner)
    assert again.learner.updates == seen["updates"]
    for name, value in again.learner.behaviour.scale.state_dict().items():
        assert torch.equal(value, seen["scale"][name]), "the state is from before the update"
    continues = torch.from_numpy(batch.pop("continues"))
    with pytest.raises(NonFiniteError, match=info.value.where):
        again.learner.update(to_records(batch, again.device), continues)
    batch["reward"] = np.nan_to_num(batch["reward"])
    again.learner.update(to_records(batch, again.device), continues)
    again.close()


def test_an_environment_that_is_never_finite_ends_the_run(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TMaze.step

    def broken(self: TMaze, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, *rest = step(self, action)
        return (observation * np.nan if self._steps == 4 else observation, *rest)

    monkeypatch.setattr(TMaze, "step", broken)
    with pytest.raises(EnvFailedError, match=r"env 2 .*observation\[0\] = nan is not finite"):
        train(quick(), tmp_path)


def test_a_failure_now_and_then_is_counted_and_survived(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where one bad step ends a run, is not told, or does not resume as it went."""
    step, config = TMaze.step, quick(steps=240)

    def flaky(self: TMaze, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = step(self, action)
        unlucky = self._steps == 4 and self.np_random.random() < 0.1
        return (observation, np.nan if unlucky else reward, *rest)

    monkeypatch.setattr(TMaze, "step", flaky)
    whole = train(config, tmp_path / "whole")
    assert 0 < whole.restarts <= config.env_restarts
    assert metrics(tmp_path / "whole")[-1]["episode/restarts"] == whole.restarts
    train(config, tmp_path / "parts", stop_at(150))
    train(config, tmp_path / "parts", None, checkpoint.complete(tmp_path / "parts")[-1])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_the_scan_is_delivered_to_the_model(quick: Quick, tmp_path: Path) -> None:
    """Fails where a setting that is announced does not reach the scans."""
    for name, folder in (("auto", "a"), ("torch", "b")):
        trainer = Trainer(quick(scan=name, device="cpu"), tmp_path / folder)
        trainer.close()
        scans = [part for part in trainer.agent.modules() if isinstance(part, Scan)]
        assert trainer.scan == "torch"
        assert {part.body for part in scans} == {"torch"}


def test_a_scan_that_cannot_run_is_refused_with_cause_and_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worldmodel.kernel._import_error", lambda: "OSError: libcudart is gone")
    with pytest.raises(ValueError, match=r"OSError: libcudart is gone\. Leave it at scan = auto"):
        pick_scan("mamba-ssm", torch.device("cuda"))
    assert pick_scan("auto", torch.device("cuda")) == "torch"
    with pytest.raises(ValueError, match=r"the device is cpu\. .*pip install"):
        pick_scan("mamba-ssm", torch.device("cpu"))
