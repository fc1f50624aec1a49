"""From a run's folder to what can be measured; what cannot be is refused before any play."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agent import sealed
from agent.agent import Agent
from agent.sealed import DamagedError
from envs.loading import absolute
from runs import folder
from runs.baselines.load import is_baseline, load_baseline
from runs.checkpoint import complete
from runs.config import Config
from runs.device import pick_device, pick_scan
from runs.evaluation.play import new_streams
from runs.evaluation.suite import Subject
from worldmodel.layers import use_scan
from worldmodel.spaces import space_to_json

THREADS = torch.get_num_threads()  # torch's own choice

logger = logging.getLogger(__name__)


def load_subject(
    run: Path,
    env: str = "",
    env_kwargs: dict[str, Any] | None = None,
    device: str = "auto",
    which: str = "newest",
) -> Subject:
    """An agent of a run, in the run's own environment or another one that looks the same.

    `which` is newest, best, or a number of steps.

    `env_kwargs` are changes to the run's own, or all there are where `env` is another one.

    Raises:
        ValueError: where the folder is not a run, its checkpoint is missing or damaged, or the
            environment is not there or has other spaces.
    """
    agent, learned, steps = load_run(run, device, which)
    env = absolute(env)
    kept = {} if env and env != learned.env else learned.env_kwargs
    config = replace(learned, env=env or learned.env, env_kwargs=kept | (env_kwargs or {}))
    subject = Subject(run, agent, config, learned, steps)
    _check_spaces(subject)
    return subject


def load_run(run: Path, device: str, which: str = "newest") -> tuple[Any, Config, int]:
    """An agent (or baseline) of a run, its settings, and the steps that it had learned from.

    torch's random state is left as it was. torch gets as many threads as the run had.

    Raises:
        ValueError: where the folder is not a run, or its checkpoint is missing or damaged.
    """
    config, _ = folder.read_config(run)
    torch.set_num_threads(config.threads or THREADS)
    found = folder.find_checkpoint(run, which)
    with torch.random.fork_rng([]):  # making an agent draws weights, even if they are then loaded
        agent = _loaded(run, found, device)
    if isinstance(agent, Agent):
        use_scan(agent, pick_scan(config.scan, agent.device))
    steps = folder.step_of(found)
    if found == folder.newest_checkpoint(run) and steps < config.steps:
        logger.warning(
            "%s is not finished: measured is its newest checkpoint, %s of %s steps",
            run,
            f"{steps:,}",
            f"{config.steps:,}",
        )
    return agent, config, steps


def _loaded(run: Path, found: Path, device: str) -> Any:
    try:
        return folder.load_checkpoint(lambda path: _load(path, device), found)
    except DamagedError as error:
        others = [str(folder.step_of(path)) for path in complete(run) if path != found]
        cure = f" Measure another one: --checkpoint {', '.join(others)}." if others else ""
        raise ValueError(f"{error}{cure}") from error


def _load(checkpoint: Path, device: str) -> Any:
    if is_baseline(checkpoint):
        sealed.check(checkpoint)
        return load_baseline(checkpoint)
    return Agent.load(checkpoint, pick_device(device))


def _check_spaces(subject: Subject) -> None:
    agent, config = subject.agent, subject.config
    with new_streams(config, 1, seed=0) as streams:
        found = {"observation": streams.observation_space, "action": streams.action_space}
    for kind, space in found.items():
        known = getattr(agent, f"{kind}_space", space)  # random actions suit any
        if space_to_json(space) != space_to_json(known):
            raise ValueError(
                f"{config.env} has the {kind} space {space}, the agent of {subject.run} learned in "
                f"{known}: it can only be measured where it looks the same."
            )
