"""The agent that acts: observations in, actions out, with a carry in between.

`predict` has Stable-Baselines3's signature for recurrent policies, so `evaluate_policy` and other
tools take it. What is saved is a folder: `agent.safetensors` and `agent.json`, nothing pickled.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from agent import sealed
from agent.actor_critic import Actor
from worldmodel.config import from_dict
from worldmodel.model import ModelConfig, WorldModel
from worldmodel.spaces import flatten_observation, space_from_json, space_to_json
from worldmodel.types import Carry

FILES = ("agent.json", "agent.safetensors")
FORMAT = 3  # 1 had RMSNorm in heads and backbone, 2 torch's MultiheadAttention in the transition


class AgentState(NamedTuple):
    """What an agent keeps between two records: its carry and the (raw) action it took."""

    carry: Carry
    prev_action: Tensor


class Agent(nn.Module):
    """A world model to remember with and a policy to act by."""

    def __init__(
        self, observation_space: gym.Space, action_space: gym.Space, config: ModelConfig
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.config = config
        self.model = WorldModel(observation_space, action_space, config)
        self.actor = Actor(self.model.sizes.tokens, config.width, self.model.actions)

    def initial(self, batch: int) -> AgentState:
        """The state of `batch` agents that have seen nothing."""
        actions = self.model.actions
        vector = torch.zeros(batch, actions.size, device=self.model.place.device)
        return AgentState(self.model.initial(batch), actions.decode(vector))

    @torch.no_grad()
    def act(
        self,
        observation: dict[str, Tensor],
        state: AgentState,
        is_first: Bool[Tensor, " B"],
        deterministic: bool = False,
    ) -> tuple[Tensor, AgentState]:
        """Actions for a batch of observations (by leaf name, in the units of their spaces)."""
        frames = {name: value[:, None] for name, value in observation.items()}
        _, carry, _ = self.model.observe(
            frames, state.prev_action[:, None], is_first[:, None], state.carry, None, deterministic
        )
        policy = self.actor(carry.features)
        action = self.model.actions.decode(policy.mode() if deterministic else policy.sample())
        return action, AgentState(carry, action)

    def predict(
        self,
        observation: Any,
        state: AgentState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, AgentState]:
        """Actions and the next state, as Stable-Baselines3's `predict` gives them.

        `observation` is one observation of the space or a batch of them; `episode_start` says for
        each of the batch whether an episode begins (default: only where `state` is None).
        """
        tensors = self.to_tensors(observation)
        single = _is_single(tensors, self)
        if single:
            tensors = {name: value[None] for name, value in tensors.items()}
        batch = len(next(iter(tensors.values())))
        if episode_start is None:
            episode_start = np.full(batch, state is None)
        is_first = torch.as_tensor(np.atleast_1d(episode_start), device=self.device).bool()
        action, state = self.act(tensors, state or self.initial(batch), is_first, deterministic)
        action = action.cpu().numpy().astype(self.action_space.dtype)
        return (action.squeeze(0) if single else action), state

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.place.device

    def to_tensors(self, observation: Any) -> dict[str, Tensor]:
        """The leaves of a (batched) observation on the agent's device."""
        leaves = flatten_observation(self.model.codec.names, observation)
        return {name: torch.as_tensor(leaf, device=self.device) for name, leaf in leaves.items()}

    def save(self, folder: str | Path) -> None:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Bytes first: a disk that is full is then told as such.
        (folder / "agent.safetensors").write_bytes(to_bytes(self.state_dict()))
        about = {
            "format": FORMAT,
            "model": asdict(self.config),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
        }
        (folder / "agent.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Agent":
        """The agent that `save` wrote, or a run's newest one; ValueError where it is not whole."""
        folder = _newest(Path(folder))
        if (folder / sealed.DONE).exists():
            sealed.check(folder, FILES)
        about = read_about(folder)
        observed, acted = (
            space_from_json(about[f"{of}_space"]) for of in ("observation", "action")
        )
        agent = cls(observed, acted, from_dict(ModelConfig, about["model"], "model"))
        agent.load_state_dict(load_file(folder / "agent.safetensors"))
        return agent.to(device)


def read_about(folder: Path) -> dict[str, Any]:
    """What agent.json says; ValueError where it is not there, or another version's."""
    if not (folder / "agent.json").is_file():
        raise ValueError(f"{folder} holds no agent: agent.json is missing.")
    about = json.loads((folder / "agent.json").read_text())
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{folder} holds an agent of format {about.get('format')}; this version reads format "
            f"{FORMAT}. Use the version of clew that wrote it."
        )
    return about


def _newest(folder: Path) -> Path:
    """The newest complete checkpoint in a run's folder, and any other folder itself."""
    complete = sorted(mark.parent for mark in folder.glob("checkpoints/step-*/done"))
    return complete[-1] if complete else folder


def _is_single(tensors: dict[str, Tensor], agent: Agent) -> bool:
    """Whether an observation has no batch dimension."""
    name, value = next(iter(tensors.items()))
    return value.dim() == agent.model.codec.rank(name)
