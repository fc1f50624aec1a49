"""`clew baseline`: what people already use, trained and evaluated as an agent of ours.

PPO sees the last few frames stacked, RecurrentPPO has an LSTM. `random` and `oracle` learn nothing;
they are runs so that they can be compared.
"""

from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from agent import sealed
from envs import make
from envs.stream import can
from runs import folder
from runs.baselines.flat import flat_space
from runs.baselines.learn import learn
from runs.baselines.policy import ABOUT, BaselineConfig
from runs.config import Config
from runs.evaluation import returns
from runs.evaluation.evaluate import evaluate
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Budget
from runs.session import default_name
from worldmodel.spaces import flatten_space

Kind = Literal["ppo", "recurrent-ppo", "random", "oracle"]
LEARNERS = ("ppo", "recurrent-ppo")


def run(kind: Kind, config: Config, settings: BaselineConfig, out: Path, name: str = "") -> Path:
    """Train a baseline in a run's folder, and evaluate it as an agent of ours; returns the folder.

    Raises:
        RefusalError: for a mistake in what was asked for; no folder is left behind.
    """
    console = Console(highlight=False)
    with folder.refusing():
        path = folder.place(out, name or default_name(config, kind))
    with folder.refusing(), folder.claim(path, exact=bool(name)) as path:
        _check(kind, config, settings)
        folder.write_config(path, config, f"baseline {kind}", "torch")
    learns = f"{config.steps:,} steps" if kind in LEARNERS else "which learns nothing"
    console.print(f"Baseline {kind} in {config.env}, {learns}: {path}", soft_wrap=True)
    if config.threads:
        torch.set_num_threads(config.threads)
    final = path / "checkpoints" / f"step-{config.steps:010d}"
    if kind == "ppo" or kind == "recurrent-ppo":
        learn(kind, config, settings, path).save(final, settings)
    else:
        folder.write_json(final / ABOUT, {"kind": kind})
    sealed.seal(final)
    if config.evaluation_episodes:
        evaluate(load_subject(path), [returns.SUITE], Budget(config.evaluation_episodes), console)
    return path


def _check(kind: Kind, config: Config, settings: BaselineConfig) -> None:
    """See that the environment is there and suits SB3, before anything is learned."""
    env = make(config.env, config.env_kwargs, config.wrappers)
    env.close()
    if kind == "oracle" and not can(env, "oracle"):
        raise ValueError(f"{config.env} has no oracle(): it cannot say what would be best.")
    if kind == "ppo" or kind == "recurrent-ppo":
        flat_space(flatten_space(env.observation_space))
        if config.steps < settings.rollout * config.num_envs:
            raise ValueError(
                f"steps = {config.steps} are fewer than one rollout of {settings.rollout} steps in "
                f"{config.num_envs} environments: nothing would be learned."
            )
