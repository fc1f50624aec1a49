"""Numbers that nothing can be learned from: kept out, or skipped, counted, and at last told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from agent.learner import NonFiniteError
from envs import EnvFailedError
from runs import checkpoint, crash
from runs.cli import main
from runs.config import Config
from runs.crash import CrashError
from runs.train import Trainer, to_records
from worldmodel.types import tree_map

Quick = Callable[..., Config]
ODD = f"{Path(__file__).with_name('odd_envs.py')}:Odd"


def train(config: Config, folder: Path, on_progress: Any = None) -> Trainer:
    """A whole run."""
    trainer = Trainer(config, folder)
    try:
        trainer.start()
        trainer.run(on_progress=on_progress)
    finally:
        trainer.close()
    return trainer


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; fails where one holds NaN, which no other reader takes."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in metrics.jsonl")

    text = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in text]


def odd(quick: Quick, kind: str, changes: dict[str, Any] | None = None, **kwargs: Any) -> Config:
    """A short run in Odd."""
    return quick(env=ODD, env_kwargs={"kind": kind, **kwargs}, **changes or {})


def assert_sound(trainer: Trainer) -> None:
    """Learned, with every weight and every line finite."""
    assert trainer.learner.updates > 10
    assert all(value.isfinite().all() for value in trainer.learner.state_dict().values())
    assert lines(trainer.folder)


NUMBERS = [
    ("large reward", {}),
    ("large", {}),
    ("large", {"rate": 0.05}),
    ("constant", {}),
    ("view", {}),
    ("plain", {"length": 1}),
    ("plain", {"length": 100_000}),
]


@pytest.mark.parametrize(("kind", "kwargs"), NUMBERS, ids=str)
def test_hard_numbers_are_learned_from(
    quick: Quick, tmp_path: Path, kind: str, kwargs: dict[str, Any]
) -> None:
    """Fails where finite numbers, however large or dull, or odd episodes, break an update."""
    trainer = train(odd(quick, kind, **kwargs), tmp_path)
    assert_sound(trainer)
    assert trainer.skipped == trainer.restarts == 0
    lengths = {line["episode/length"] for line in lines(tmp_path) if "episode/length" in line}
    assert lengths == ({kwargs.get("length", 5)} if kwargs.get("length") != 100_000 else set())


@pytest.mark.slow
def test_an_episode_of_a_hundred_thousand_steps(quick: Quick, tmp_path: Path) -> None:
    """Fails where a very long episode cannot be learned from, saved or resumed."""
    asked = {"num_envs": 2, "steps": 201_000, "checkpoint_every": 90_000, "log_every": 50_000}
    config = odd(quick, "plain", asked | {"replay_ratio": 0.2}, length=100_000)
    trainer = train(config, tmp_path)
    assert_sound(trainer)
    (told,) = {line["episode/length"] for line in lines(tmp_path) if "episode/length" in line}
    assert told == 100_000
    again = Trainer(config, tmp_path)
    again.resume(checkpoint.complete(tmp_path)[0])
    assert not again.record.is_last.any()
    again.close()


@pytest.mark.parametrize("kind", ["nan", "infinite", "huge", "nan reward", "huge reward"])
def test_no_number_that_is_infinite_to_a_model_gets_in(
    quick: Quick, tmp_path: Path, kind: str
) -> None:
    """Fails where what is finite in float64 alone, or not at all, reaches replay."""
    config = odd(quick, kind, {"env_restarts": 1_000}, rate=0.05)
    trainer = train(config, tmp_path)
    assert trainer.restarts > 0
    assert trainer.skipped == 0
    assert_sound(trainer)
    for name in ("observation%2Fobservation", "reward"):
        kept = np.load(tmp_path / "replay" / f"{name}.npy")
        assert (np.abs(kept) <= np.float64(np.finfo(np.float32).max)).all()
    with pytest.raises(EnvFailedError, match="is not finite in float32"):
        train(odd(quick, kind), tmp_path / "always")


def poison(trainer: Trainer, batches: int) -> None:
    """Makes so many batches of replay hold a reward that is not a number."""
    sample, left = trainer.replay.sample, [batches]

    def poisoned(context: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        batch, continues = sample(context)
        left[0] -= 1
        if left[0] >= 0:
            batch["reward"][0, 3] = np.nan
        return batch, continues

    trainer.replay.sample = poisoned


def once(do: Callable[[Trainer], None], step: int = 160) -> Callable[[Trainer], None]:
    """Do something, one time, after so many steps."""
    done: list[bool] = []

    def on_progress(trainer: Trainer) -> None:
        if trainer.env_steps >= step and not done:
            done.append(True)
            do(trainer)

    return on_progress


def test_a_bad_batch_is_skipped_and_counted(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where one bad batch ends a run, leaves a trace in what is learned, or is not told.

    Its rows end where nothing was learned from, so none of them goes on from there.
    """
    went_on: list[tuple[int, bool]] = []
    trainer = Trainer(quick(), tmp_path)
    update = trainer.learner.update

    def watched(records: Any, continues: torch.Tensor, done: float) -> dict[str, float]:
        went_on.append((trainer.skipped, bool(continues.any())))
        before = {k: v.clone() for k, v in trainer.learner.state_dict().items()}
        try:
            return update(records, continues, done)
        except NonFiniteError:
            seen["before"] = before
            raise

    seen: dict[str, Any] = {}
    monkeypatch.setattr(trainer.learner, "update", watched)
    skip = trainer._skip

    def skipped(error: NonFiniteError, batch: dict[str, np.ndarray]) -> None:
        skip(error, batch)
        now = trainer.learner.state_dict()
        assert all(torch.equal(now[k], v) for k, v in seen["before"].items())

    monkeypatch.setattr(trainer, "_skip", skipped)
    trainer.start()
    trainer.run(on_progress=once(lambda t: poison(t, 3)))
    trainer.close()
    assert trainer.skipped == 3
    assert trainer.skipped_in_a_row == []
    assert lines(tmp_path)[-1]["skipped_updates"] == 3
    assert lines(tmp_path)[0]["skipped_updates"] == 0
    after = [moved for count, moved in went_on if count > 0]
    assert after[:3] == [False] * 3
    assert any(after[3:])
    assert_sound(trainer)


def test_what_was_skipped_is_known_after_a_resume(quick: Quick, tmp_path: Path) -> None:
    """Fails where a resumed run begins to count anew."""
    config = quick(steps=240)
    train(config, tmp_path, once(lambda t: poison(t, 2)))
    again = Trainer(config, tmp_path)
    again.resume(checkpoint.complete(tmp_path)[-1])
    assert again.skipped == 2
    again.close()


def explode(trainer: Trainer) -> None:
    """What is carried from batch to batch has grown beyond all numbers."""
    trainer.learner.carry = tree_map(
        lambda leaf: leaf * 1e38 * 1e38 if leaf.is_floating_point() else leaf,
        trainer.learner.carry,
    )


def test_a_state_that_explodes_is_left_behind(quick: Quick, tmp_path: Path) -> None:
    """Fails where an infinite state is carried on, so that no later update can be made."""
    trainer = train(quick(), tmp_path, lambda t: t.skipped or explode(t))
    assert trainer.skipped == 1
    assert_sound(trainer)
    assert all(0 < line["largest_state"] < 1e3 for line in lines(tmp_path)[-2:])


def test_bad_numbers_without_end_stop_the_run_with_a_dump(
    quick: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run goes on for ever without learning, or nobody can tell why it ended."""
    config = quick(update_skips=3)
    with pytest.raises(CrashError, match=r"clew doctor .*crash tells") as info:
        train(config, tmp_path, once(lambda t: poison(t, 100)))
    form = json.loads((tmp_path / "crash" / crash.FORM).read_text())
    assert form["skipped"] == [info.value.where] * 4
    assert main(["doctor", str(tmp_path / "crash")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 updates in a row were skipped" in said
    assert "The batch is not finite: reward (nan at [0, 3])." in said


def weights(factor: float) -> Callable[[Trainer], None]:
    """Blow up the world model's weights."""

    def blow(trainer: Trainer) -> None:
        with torch.no_grad():
            for parameter in trainer.agent.model.parameters():
                parameter.mul_(factor)

    return blow


@pytest.mark.parametrize(
    ("factor", "said"),
    [(np.inf, "The weights were not finite before"), (1e20, "The weights have grown huge")],
)
def test_weights_that_explode_stop_the_run_before_it_acts(
    quick: Quick, tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, said: str
) -> None:
    """Fails where an agent whose state is NaN goes on acting."""
    with pytest.raises(CrashError, match="The state that the agent acts from is not finite"):
        train(quick(), tmp_path, once(weights(factor)))
    assert main(["doctor", str(tmp_path)]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


def test_absurd_learning_rates_end_in_words(quick: Quick, tmp_path: Path) -> None:
    """Fails where weights that grew past all bounds are a traceback, or NaN in what is told."""
    rates = {"model_lr": 1e30, "actor_lr": 1e30, "critic_lr": 1e30, "warmup": 0}
    config = quick()
    fast = type(config.optimiser)(**rates)
    with pytest.raises(CrashError):
        train(quick(optimiser=fast), tmp_path)
    assert lines(tmp_path)


def test_a_dump_can_be_repeated(quick: Quick, tmp_path: Path) -> None:
    """Fails where the dump is of another moment than the one that could not be learned from."""
    with pytest.raises(CrashError) as info:
        train(quick(update_skips=2), tmp_path, once(lambda t: poison(t, 100)))
    again = Trainer(quick(), tmp_path / "again")
    checkpoint.load(tmp_path / "crash", again.agent, again.learner)
    batch = load_file(tmp_path / "crash" / crash.BATCH)
    continues = torch.from_numpy(batch.pop("continues"))
    assert not continues.any()
    with pytest.raises(NonFiniteError, match=info.value.where):
        again.learner.update(to_records(batch, again.device), continues)
    again.close()


@pytest.fixture
def dump(quick: Quick, tmp_path: Path) -> Path:
    """A dump that may be written to."""
    with pytest.raises(CrashError):
        train(quick(update_skips=0), tmp_path / "run", once(lambda t: poison(t, 100)))
    return tmp_path / "run" / "crash"


def changed(dump: Path, file: str, **arrays: np.ndarray) -> None:
    """Put other arrays into a file of a dump."""
    save_file(load_file(dump / file) | arrays, dump / file)


def test_doctor_tells_what_a_dump_holds(dump: Path) -> None:
    """Fails where the verdict is not the one that the numbers call for."""
    assert "The batch is not finite" in crash.verdict(crash.read(dump))
    changed(dump, crash.BATCH, reward=np.full((8, 32), 3e9, np.float32))
    assert "huge numbers: reward (up to 3e+09)" in crash.verdict(crash.read(dump))
    changed(dump, crash.BATCH, reward=np.zeros((8, 32), np.float32))
    assert "unremarkable" in crash.verdict(crash.read(dump))
    place = load_file(dump / "agent.safetensors")["model.place"]
    changed(dump, "agent.safetensors", **{"model.place": place + np.float32(1e5)})
    assert "have grown huge: model.place" in crash.verdict(crash.read(dump))
    changed(dump, "agent.safetensors", **{"model.place": place * np.float32(np.nan)})
    assert "not finite before the update: model.place (nan at [0, 0])" in crash.verdict(
        crash.read(dump)
    )


@pytest.mark.parametrize("file", [crash.FORM, crash.BATCH, "agent.safetensors", "form", "gone"])
def test_a_damaged_dump_is_refused(
    dump: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where the doctor meets a traceback of its own."""
    if file == "gone":
        (dump / crash.FORM).unlink()
    elif file == "form":
        (dump / crash.FORM).write_text('{"where": 3}')
    else:
        (dump / file).write_bytes((dump / file).read_bytes()[:-9])
    assert main(["doctor", str(dump)]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "damaged or half written" in said or "is no dump" in said
