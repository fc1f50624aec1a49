"""One sitting of a run: refuse or begin, train under the eyes of a user, evaluate, say what next.

The first Ctrl-C (or SIGTERM) ends training after the step in progress, with a checkpoint; the
second one ends everything at once.
"""

import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from agent.sealed import DamagedError
from envs import ContractError, EnvFailedError
from envs.dataset import DatasetStreams, about
from envs.loading import absolute, is_file
from runs import checkpoint, folder
from runs.config import Config
from runs.evaluation import returns
from runs.evaluation.evaluate import evaluate
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Budget, Subject
from runs.evaluation.suites import ALL, find_suites
from runs.progress import Progress
from runs.storage import StorageError, writing
from runs.train import Trainer
from worldmodel.spaces import text_leaves

INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def start(config: Config, recipe: str | None, out: Path, name: str = "") -> int:
    """Train a new run in out/name; returns the exit code.

    Raises:
        RefusalError: for a mistake in what was asked for; no folder is left behind.
    """
    config = replace(config, env=absolute(config.env))
    with folder.refusing():
        path = folder.place(out, name or default_name(config, recipe))
    with ExitStack() as held:
        with folder.refusing(), folder.claim(path, exact=bool(name)) as path:
            held.enter_context(folder.locked(path))
            shutil.rmtree(path / "replay", ignore_errors=True)  # of one that was killed as it began
            trainer = Trainer(config, path)
            held.callback(trainer.close)
            trainer.start()
            with writing(path):
                folder.write_config(path, config, recipe, trainer.scan)
        return _train(trainer, recipe)


def resume(path: Path, steps: int | None = None) -> int:
    """Go on with a run from its newest whole checkpoint, up to `steps` where given; the exit code.

    A run that was stopped before its first one is begun anew.

    Raises:
        RefusalError: where the folder is no run, has no whole checkpoint, or is finished.
    """
    with ExitStack() as held:
        with folder.refusing():
            config, recipe = folder.read_config(path)
            held.enter_context(folder.locked(path))
            checkpoint.settle(path)
            config = replace(config, steps=config.steps if steps is None else steps)
            _check_unfinished(path, config.steps)
            trainer = Trainer(config, path)
            held.callback(trainer.close)
            _restore(trainer)
        return _train(trainer, recipe)


def _restore(trainer: Trainer) -> None:
    """Go on from the newest checkpoint that is whole; what is wrong with newer ones is told."""
    run, damaged = trainer.folder, {}
    if not list(run.glob("checkpoints/*")):
        trainer.start()
        return
    folder.newest_checkpoint(run)  # that there is one
    for found in reversed(checkpoint.complete(run)):
        try:
            trainer.resume(found)
        except ValueError as error:
            if not (damaged or isinstance(error, DamagedError)):
                raise
            damaged[found] = error
            continue
        for path, error in damaged.items():
            aside = checkpoint.put_aside(path).name
            print(f"DAMAGED: {error} Going on from {found.name} instead; it is now {aside}.")
        return
    reasons = " ".join(map(str, damaged.values()))
    raise ValueError(f"{run} has no checkpoint that it can go on from. {reasons}")


def _train(trainer: Trainer, recipe: str | None) -> int:
    console, config = Console(highlight=False), trainer.config
    _announce(console, trainer, recipe)
    try:
        with _stopping(trainer), Progress(console, config) as progress:
            trainer.run(on_progress=progress)
    except (EnvFailedError, ContractError, StorageError):
        if (trainer.folder / folder.CONFIG).exists():
            console.print(_what_is_saved(trainer), soft_wrap=True, markup=False)
        raise
    if trainer.env_steps < config.steps:
        console.print(f"Stopped and saved. Go on with: {_resume_command(trainer)}", soft_wrap=True)
        return INTERRUPTED
    _evaluate(console, trainer)
    _conclude(console, trainer)
    return 0


def _evaluate(console: Console, trainer: Trainer) -> None:
    """Evaluate the trained agent, as many episodes as the config asks for."""
    config = trainer.config
    if not config.evaluation_episodes or config.model_only:
        return
    console.print(f"Evaluating {config.evaluation_episodes} new episodes.")
    subject = Subject(trainer.folder, trainer.agent, config, steps=trainer.env_steps)
    try:
        evaluate(subject, [returns.SUITE], Budget(config.evaluation_episodes), console)
    except (KeyboardInterrupt, EnvFailedError, ContractError, StorageError):
        command = f"{program('clew')} evaluate {shlex.quote(str(trainer.folder))}"
        console.print(f"Training is saved. Evaluate it with: {command}", soft_wrap=True)
        raise


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """Lets the first signal end training with a checkpoint, and the second one abort."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nclew: stopping after this step; once more ends at once, unsaved\n")

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_unfinished(path: Path, steps: int) -> None:
    done = max(map(folder.step_of, checkpoint.complete(path)), default=0)
    if done >= steps:
        raise ValueError(
            f"{path} has trained for {done:,} steps already, and {steps:,} are asked for. "
            f"Give more to go on: clew train --resume {path} --steps {2 * done}"
        )


def default_name(config: Config, recipe: str | None) -> str:
    """recipe-20260131-235959-s0; without a recipe, the dataset or what `env_name` says."""
    dataset = config.dataset
    dataset = Path(dataset).name if Path(dataset).is_absolute() else dataset
    subject = recipe or dataset.replace("/", "-").lower() or env_name(config.env)
    return f"{subject}-{datetime.now():%Y%m%d-%H%M%S}-s{config.seed}"


def env_name(env_id: str) -> str:
    """An environment's id, or its file and class, as part of a folder's name."""
    where, _, env = env_id.rpartition(":")
    where = Path(where).stem if is_file(where) else where
    return f"{where}-{env}".strip("-").replace("/", "-").lower()


def _announce(console: Console, trainer: Trainer, recipe: str | None) -> None:
    """What is about to be done, and what it takes."""
    config, replay = trainer.config, trainer.replay
    parameters = sum(p.numel() for p in trainer.agent.parameters())
    megabytes = replay.nbytes / 1e6
    scan = trainer.scan + " (chosen automatically)" * (config.scan == "auto")
    lines = [
        f"clew {folder.version()} · {recipe or 'no recipe'} · seed {config.seed}",
        f"Run: {trainer.folder}",
        *_where(trainer),
        f"Agent: {parameters:,} parameters",
        f"Device: {trainer.device}, {torch.get_num_threads()} threads, scan: {scan}",
        f"Replay: up to {config.replay.capacity:,} records, {megabytes:,.1f} MB on disk",
    ]
    lines += _notices(trainer)
    if trainer.env_steps:
        lines.append(f"Going on from step {trainer.env_steps:,}")
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _where(trainer: Trainer) -> list[str]:
    """What is learned from."""
    config = trainer.config
    kwargs = "".join(f" {k}={v}" for k, v in config.env_kwargs.items())
    if not isinstance(trainer.streams, DatasetStreams):
        return [f"Environment: {config.env}{kwargs}, {config.num_envs} side by side"]
    recorded = f"{config.env}{kwargs}" if config.env else "an environment that it does not name"
    return [
        f"Dataset: {about(trainer.streams.dataset)}, {config.num_envs} side by side",
        f"Recorded in: {recorded}",
    ]


def _notices(trainer: Trainer) -> list[str]:
    """What a user may not expect of what is learned, and of how observations are read."""
    notices = []
    if trainer.config.dataset:
        notices.append("World model alone: a dataset trains no policy (model_only)")
    texts = text_leaves(trainer.streams.observation_space)
    return notices + [
        f"Not read: observation {key!r} is Text, which the model leaves out" for key in texts
    ]


def _nothing_learned(config: Config) -> str:
    frames = config.replay.batch * config.context.length(0, config.replay.context)
    return (
        f"NOTHING WAS LEARNED: the first update takes {frames:,} frames (--replay.batch x "
        f"--replay.context), and {config.steps:,} steps (--steps), {config.prefill:,} of them "
        f"before learning (--prefill), at a --replay-ratio of {config.replay_ratio:g} give fewer."
    )


def _is_measurable(run: Path) -> bool:
    """Whether there is a suite that can measure a run."""
    try:
        return bool(find_suites((ALL,), load_subject(run)))
    except Exception:  # whatever an environment raises: nothing is lost by saying less
        return False


def _conclude(console: Console, trainer: Trainer) -> None:
    """Where the run lies, and what to try next."""
    if not trainer.learner.updates:
        console.print(_nothing_learned(trainer.config), soft_wrap=True, markup=False)
    run = shlex.quote(str(trainer.folder))
    model_only = trainer.config.model_only
    measure = f"evaluate {run} --episodes 500 --seed 1"
    if model_only:
        measure = f"evaluate {run} --suite all" if _is_measurable(trainer.folder) else ""
    if trainer.restarts:
        console.print(f"Environments failed and were begun anew {trainer.restarts} times.")
    if trainer.skipped:
        console.print(
            f"{trainer.skipped:,} updates were skipped: a loss, a gradient or a state was not "
            "finite. Very large observations or rewards, or learning rates, do that.",
            soft_wrap=True,
        )
    lines = [
        f"The run lies in {trainer.folder}. Next:",
        *[f"  {program('clew')} {measure}"] * bool(trainer.config.env and measure),
        f"  {program('tensorboard')} --logdir {run}",
        f"  {program('clew')} train --resume {run} --steps {2 * trainer.config.steps}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _resume_command(trainer: Trainer) -> str:
    """How to go on, with --steps where the run's own config asks for another number."""
    own, _ = folder.read_config(trainer.folder)
    extended = trainer.config.steps != own.steps
    extra = f" --steps {trainer.config.steps}" if extended else ""
    return f"{program('clew')} train --resume {shlex.quote(str(trainer.folder))}{extra}"


def _what_is_saved(trainer: Trainer) -> str:
    """What is left of a run whose environments failed; who resumes it allows as many failures."""
    if found := checkpoint.complete(trainer.folder):
        step = folder.step_of(found[-1])
        return f"Saved up to step {step:,}. Go on from there with: {_resume_command(trainer)}"
    return (
        f"Nothing is saved: the first checkpoint comes at step {trainer.config.checkpoint_every:,}."
    )


def program(name: str) -> str:
    """How to call a program of ours in the user's shell, on its path or in our own folder."""
    beside = Path(sys.argv[0]).with_name(name)
    return str(beside) if not shutil.which(name) and beside.exists() else name
