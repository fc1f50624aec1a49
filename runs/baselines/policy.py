"""A trained PPO or RecurrentPPO that acts by the verbs of our own agent.

Its network is kept as safetensors and built anew when it is loaded, not unpickled.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors.torch import load_model, save_model
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from torch import Tensor

from runs.baselines.flat import VECTOR, flat
from worldmodel.config import from_dict
from worldmodel.spaces import flatten_observation, flatten_space, space_from_json, space_to_json

Learned = Literal["ppo", "recurrent-ppo"]
ABOUT = "baseline.json"


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of PPO and RecurrentPPO; what is not named here is as in SB3.

    Unlike SB3's defaults: rollouts of 128 steps for both, larger minibatches, an entropy bonus, a
    falling learning rate, and hidden layers and LSTM of the same width.
    """

    stack: int = 4
    """Frames that PPO sees, the newest last; RecurrentPPO always sees one."""
    rollout: int = 128
    """Steps of each environment between two updates."""
    minibatch: int = 256
    """Samples in a minibatch."""
    epochs: int = 10
    """Passes over each rollout."""
    learning_rate: float = 3e-4
    """Of Adam; falls linearly to zero."""
    gamma: float = 0.99
    """Discount."""
    gae_lambda: float = 0.95
    """Of the advantages."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    clip: float = 0.2
    """Range of the probability ratio."""
    width: int = 128
    """Units of the LSTM and of each of two hidden layers."""

    def __post_init__(self) -> None:
        for name in ("stack", "rollout", "minibatch", "epochs", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo.{name} = {getattr(self, name)} must be at least 1.")


class Baseline:
    """A trained PPO or RecurrentPPO that acts and remembers by the same four verbs as an Agent.

    Its memory is the stack of frames, or the LSTM's state.
    """

    device = torch.device("cpu")

    def __init__(
        self, kind: Learned, observation_space: gym.Space, action_space: gym.Space, policy: Any
    ) -> None:
        self.kind, self.policy = kind, policy
        self.observation_space, self.action_space = observation_space, action_space
        self.leaves = flatten_space(observation_space)

    def initial(self, batch: int) -> tuple[Tensor, ...]:
        """No frames seen, nothing in the LSTM."""
        if self.kind == "recurrent-ppo":
            layers, _, width = self.policy.lstm_hidden_state_shape
            return (torch.zeros(batch, layers, width),) * 2
        space = self.policy.observation_space
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
        return tuple(torch.zeros(batch, *_last_channels(part)) for part in parts)

    def to_tensors(self, observation: Any) -> dict[str, Tensor]:
        """The parts of a batch of observations, as SB3's networks read them."""
        parts = flat(self.leaves, flatten_observation(self.leaves, observation))
        named = parts if isinstance(parts, dict) else {VECTOR: parts}
        return {name: torch.as_tensor(part) for name, part in named.items()}

    def act(
        self,
        observation: dict[str, Tensor],
        state: tuple[Tensor, ...],
        is_first: Tensor,
        deterministic: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Actions and the next state."""
        if self.kind == "recurrent-ppo":
            hidden = tuple(part.transpose(0, 1).numpy() for part in state)
            seen = _unnamed({name: part.numpy() for name, part in observation.items()})
            action, hidden = self.policy.predict(seen, hidden, is_first.numpy(), deterministic)
            after = tuple(torch.as_tensor(part).transpose(0, 1) for part in hidden)
        else:
            pairs = zip(state, observation.values(), strict=True)
            after = tuple(_push(stack, part, is_first) for stack, part in pairs)
            seen = dict(zip(observation, after, strict=True))
            seen = {
                n: part.numpy().astype(observation[n].numpy().dtype) for n, part in seen.items()
            }
            action, _ = self.policy.predict(_unnamed(seen), deterministic=deterministic)
        return torch.as_tensor(action), after

    def save(self, folder: Path, config: BaselineConfig) -> None:
        """Write `baseline.safetensors` and `baseline.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.policy, str(folder / "baseline.safetensors"))
        about = {
            "kind": self.kind,
            "settings": asdict(config),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
            "seen_space": space_to_json(self.policy.observation_space),
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path, about: dict[str, Any]) -> "Baseline":
        """The baseline that `save` wrote, and what it wrote about it."""
        observed, acted, seen = (
            space_from_json(about[f"{of}_space"]) for of in ("observation", "action", "seen")
        )
        settings = from_dict(BaselineConfig, about["settings"], "baseline")
        body, name, kwargs = algorithm(about["kind"], seen, settings)
        policy = body.policy_aliases[name](seen, acted, lambda _: 0.0, **kwargs)
        load_model(policy, folder / "baseline.safetensors")
        return cls(about["kind"], observed, acted, policy)


def _push(stack: Tensor, newest: Tensor, is_first: Tensor) -> Tensor:
    """Frames stacked along the last dimension, the newest last; an episode begins with zeros."""
    first = is_first.view(-1, *[1] * (stack.dim() - 1))
    kept = torch.where(first, 0, stack)[..., newest.shape[-1] :]
    return torch.cat([kept, newest], -1)


def _last_channels(space: gym.Space) -> tuple[int, ...]:
    """The shape of a part as it is stacked: pictures with their channels last."""
    shape = tuple(space.shape or ())
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _unnamed(parts: dict[str, np.ndarray]) -> Any:
    return next(iter(parts.values())) if len(parts) == 1 else parts


def algorithm(
    kind: Learned, space: gym.Space, config: BaselineConfig
) -> tuple[type[PPO] | type[RecurrentPPO], str, dict[str, Any]]:
    """Class, name of the policy, and its arguments."""
    if isinstance(space, spaces.Dict):
        body = "MultiInput"
    else:
        body = "Cnn" if len(space.shape or ()) == 3 else "Mlp"
    kwargs: dict[str, Any] = {"net_arch": [config.width, config.width]}
    if kind == "ppo":
        return PPO, f"{body}Policy", kwargs
    return RecurrentPPO, f"{body}LstmPolicy", kwargs | {"lstm_hidden_size": config.width}
