"""The training loop: collect a step everywhere, learn as much as is due, tell, save.

Starting and resuming are one path: a resumed run is a new one whose parts were loaded. On a CPU
its metrics are those of the run that never stopped, bit for bit.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.agent import Agent
from agent.learner import Learner
from agent.replay import Replay
from envs import EnvStreams, make
from runs import checkpoint
from runs.config import Config
from runs.telemetry import Telemetry
from worldmodel.spaces import flatten_observation
from worldmodel.types import Records


class Trainer:
    """One run, from its first step or from its last checkpoint on."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.device = pick_device(config.device)
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        build = partial(make, config.env, config.env_kwargs, config.wrappers)
        self.streams = EnvStreams(build, config.num_envs, config.seed, config.parallel)
        spaces = self.streams.observation_space, self.streams.action_space
        self.agent = Agent(*spaces, config.model).to(self.device)
        rows = config.replay.batch
        self.learner = Learner(self.agent, config.behaviour, config.optimiser, rows)
        self.replay = self._make_replay()
        self.telemetry = Telemetry(folder)
        self.env_steps, self.due, self.stop = 0, 0.0, False
        self.state = self.agent.initial(config.num_envs)

    def start(self) -> None:
        """Begin with the first record of every environment."""
        self.record = self.streams.reset()

    def resume(self, path: Path) -> None:
        """Begin where a checkpoint ended."""
        state = checkpoint.load(path, self.agent, self.learner)
        self.env_steps, self.due = state["env_steps"], state["due"]
        self.replay.load_state(state["replay"])
        self.telemetry.load_state(state["telemetry"], self.env_steps)
        self.record = self.streams.restore(state["streams"])
        leaves = [torch.from_numpy(leaf).to(self.device) for leaf in state["acting"]]
        self.state = checkpoint.tree_unflatten(self.state, leaves)

    def run(self, steps: int | None = None, on_progress=lambda trainer: None) -> None:
        """Train up to so many environment steps (default: the config's), or until `stop`."""
        steps = steps or self.config.steps
        while self.env_steps < steps and not self.stop:
            before = self.env_steps
            self.collect()
            self.learn()
            if _passed(before, self.env_steps, self.config.log_every):
                self.telemetry.write(self.env_steps, self.learner.updates)
            if _passed(before, self.env_steps, self.config.checkpoint_every):
                self.save()
            on_progress(self)
        self.save()

    def collect(self) -> None:
        """Store the newest record of every environment and act on it."""
        observation = flatten_observation(self.agent.model.codec.names, self.record.observation)
        self.replay.add(self._replay_record(observation))
        tensors = {name: torch.as_tensor(v, device=self.device) for name, v in observation.items()}
        is_first = torch.as_tensor(self.record.is_first, device=self.device)
        action, self.state = self.agent.act(tensors, self.state, is_first)
        self.record = self.streams.step(action.cpu().numpy())
        taken = int((~self.record.is_first).sum())
        self.env_steps += taken
        if self.env_steps >= self.config.prefill:
            frames = self.config.replay.batch * self.config.replay.context
            self.due += taken * self.config.replay_ratio / frames
        for episode in self.record.episodes:
            self.telemetry.episode(episode)

    def learn(self) -> None:
        """Make the updates that are due."""
        while self.due >= 1 and self.replay.ready():
            arrays, continues = self.replay.sample()
            records = to_records(arrays, self.device)
            metrics = self.learner.update(records, torch.as_tensor(continues, device=self.device))
            self.telemetry.count(metrics)
            self.due -= 1

    def save(self) -> Path:
        """Write a checkpoint."""
        self.replay.flush()
        state: dict[str, Any] = {
            "env_steps": self.env_steps,
            "due": self.due,
            "replay": self.replay.state(),
            "telemetry": self.telemetry.state(),
            "streams": self.streams.state(),
            "acting": [leaf.cpu().numpy() for leaf in checkpoint.tree_leaves(self.state)],
        }
        return checkpoint.save(self.folder, self.agent, self.learner, state, self.env_steps)

    def close(self) -> None:
        """Release environments and files."""
        self.streams.close()
        self.telemetry.close()

    def _make_replay(self) -> Replay:
        leaves = self.agent.model.codec
        fields = {
            f"observation/{name}": (np.dtype(leaves.dtypes[name]), leaves.shapes[name])
            for name in leaves.names
        }
        action = self.streams.action_space
        fields |= {
            "prev_action": (np.dtype(action.dtype), tuple(action.shape or ())),
            "reward": (np.dtype(np.float32), ()),
            "is_first": (np.dtype(bool), ()),
            "is_terminal": (np.dtype(bool), ()),
        }
        config = self.config
        slack = config.checkpoint_every // config.num_envs * 2 + 2
        folder = self.folder / "replay"
        return Replay(folder, fields, config.num_envs, config.replay, config.seed, slack)

    def _replay_record(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            **{f"observation/{name}": value for name, value in observation.items()},
            "prev_action": self.state.prev_action.cpu().numpy(),
            "reward": self.record.reward,
            "is_first": self.record.is_first,
            "is_terminal": self.record.is_terminal,
        }


def to_records(arrays: dict[str, np.ndarray], device: torch.device) -> Records:
    """A batch from replay as tensors."""
    tensors = {name: torch.as_tensor(value, device=device) for name, value in arrays.items()}
    names = [name for name in tensors if name.startswith("observation/")]
    observation = {name.removeprefix("observation/"): tensors.pop(name) for name in names}
    return Records(observation, **tensors)


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' is CUDA where there is one.

    Raises:
        ValueError: where the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device = {name!r} cannot be used here: {error}") from error
    return torch.device(name)


def _passed(before: int, after: int, every: int) -> bool:
    return after // every > before // every
