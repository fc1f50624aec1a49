"""What people already use, in the same environments, folders and evaluation: `clew baseline`.

Stable-Baselines3's PPO sees the last few frames stacked, sb3-contrib's RecurrentPPO has an LSTM.
Their networks are kept as safetensors and built anew when they are loaded, not unpickled. Pictures
go through SB3's convolutions; everything else is one vector, categories one-hot.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors.torch import load_model, save_model
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import Tensor

from envs import Episode, make
from runs.config import Config
from runs.telemetry import Telemetry
from worldmodel.config import from_dict
from worldmodel.spaces import flatten_observation, flatten_space, space_from_json, space_to_json

Kind = Literal["ppo", "recurrent-ppo", "random", "oracle"]
LEARNED = ("ppo", "recurrent-ppo")
ABOUT = "baseline.json"
VECTOR = "vector"  # the part that is no picture


@dataclass(frozen=True)
class BaselineConfig:
    """Settings of PPO; the defaults are those of SB3 but for what is said here."""

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


class Flat(gym.ObservationWrapper):
    """Any observation as a picture, a vector, or a Dict of both."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.leaves = flatten_space(env.observation_space)
        self.observation_space = flat_space(self.leaves)

    def observation(self, observation: Any) -> Any:
        """Pictures as they are, everything else in one vector."""
        found = flatten_observation(self.leaves, observation)
        return flat(self.leaves, {name: value[None] for name, value in found.items()}, single=True)


def is_picture(space: gym.Space) -> bool:
    """Whether SB3's convolutions can read it."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and min(space.shape[:2]) >= 36
    )


def flat_space(leaves: dict[str, gym.Space]) -> spaces.Box | spaces.Dict:
    """The space of `flat`; Dict only where there are pictures and something else, or several."""
    parts: dict[str, gym.Space] = {n: leaf for n, leaf in leaves.items() if is_picture(leaf)}
    rest = sum(spaces.flatdim(leaf) for leaf in leaves.values() if not is_picture(leaf))
    if rest:
        parts[VECTOR] = spaces.Box(-np.inf, np.inf, (rest,), np.float32)
    if len(parts) == 1:
        (only,) = parts.values()
        assert isinstance(only, spaces.Box)
        return only
    return spaces.Dict(parts)


def flat(leaves: dict[str, gym.Space], found: dict[str, np.ndarray], single: bool = False) -> Any:
    """A batch of observations by leaf name as `flat_space` has them."""
    parts = {name: found[name] for name, leaf in leaves.items() if is_picture(leaf)}
    vectors = [_vectors(leaf, found[n]) for n, leaf in leaves.items() if not is_picture(leaf)]
    if vectors:
        parts[VECTOR] = np.concatenate(vectors, -1, dtype=np.float32)
    parts = {name: part[0] for name, part in parts.items()} if single else parts
    return next(iter(parts.values())) if len(parts) == 1 else parts


def _vectors(space: gym.Space, values: np.ndarray) -> np.ndarray:
    """A batch of one leaf as vectors; categories one-hot."""
    return np.stack([np.asarray(spaces.flatten(space, value), np.float32) for value in values])


class Baseline:
    """A trained PPO or RecurrentPPO that acts and remembers by the same four verbs as an Agent.

    Its memory is the stack of frames, or the LSTM's state.
    """

    device = torch.device("cpu")

    def __init__(
        self, kind: Kind, observation_space: gym.Space, action_space: gym.Space, policy: Any
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
    def load(cls, folder: Path) -> "Baseline":
        """The baseline that `save` wrote."""
        about = json.loads((folder / ABOUT).read_text())
        observed, acted, seen = (
            space_from_json(about[f"{of}_space"]) for of in ("observation", "action", "seen")
        )
        settings = from_dict(BaselineConfig, about["settings"], "baseline")
        algorithm, name, kwargs = _algorithm(about["kind"], seen, settings)
        policy = algorithm.policy_aliases[name](seen, acted, lambda _: 0.0, **kwargs)
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


def _algorithm(
    kind: Kind, space: gym.Space, config: BaselineConfig
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


def make_envs(kind: Kind, config: Config, settings: BaselineConfig) -> VecEnv:
    """Environments of a run as SB3 takes them."""
    one = partial(make, config.env, config.env_kwargs, config.wrappers)
    envs: VecEnv = DummyVecEnv([lambda: Monitor(Flat(one()))] * config.num_envs)
    envs.seed(config.seed)
    return VecFrameStack(envs, settings.stack) if kind == "ppo" else envs


def learn(kind: Kind, config: Config, settings: BaselineConfig, folder: Path) -> Baseline:
    """Train PPO or RecurrentPPO for the run's steps."""
    envs = make_envs(kind, config, settings)
    algorithm, name, kwargs = _algorithm(kind, envs.observation_space, settings)
    model = algorithm(
        name,
        envs,
        learning_rate=lambda left: settings.learning_rate * left,
        n_steps=settings.rollout,
        batch_size=settings.minibatch,
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        clip_range=settings.clip,
        policy_kwargs=kwargs,
        seed=config.seed,
        device="cpu",
    )
    telemetry = Telemetry(folder)
    try:
        model.learn(config.steps, callback=Watch(telemetry, config.log_every))
    finally:
        telemetry.close()
    bare = make(config.env, config.env_kwargs, config.wrappers)
    bare.close()
    return Baseline(kind, bare.observation_space, bare.action_space, model.policy)


def run(kind: Kind, config: Config, settings: BaselineConfig, out: Path, name: str = "") -> Path:
    """Train a baseline in a run's folder of its own, and evaluate it as an agent of ours; the folder.

    Raises:
        RefusalError: for a mistake in what was asked for; no folder is left behind.
    """
    console = Console(highlight=False)
    path = out / (name or default_name(config, kind))
    with folder.refusing(), folder.claim(path, exact=bool(name)) as path:
        _check(kind, config, settings)
        folder.write_config(path, config, f"baseline {kind}", "torch")
    console.print(f"Baseline {kind} in {config.env}, {config.steps:,} steps: {path}", soft_wrap=True)
    final = path / "checkpoints" / f"step-{config.steps:010d}"
    if kind in LEARNED:
        learn(kind, config, settings, path).save(final, settings)
    else:
        final.mkdir(parents=True)
        (final / ABOUT).write_text(json.dumps({"kind": kind}))
    (final / "done").touch()
    if config.evaluation_episodes:
        evaluate(load_subject(path), [returns.SUITE], Budget(config.evaluation_episodes), console)
    return path


def _check(kind: Kind, config: Config, settings: BaselineConfig) -> None:
    """See that the environment is there and suits SB3, before anything is learned."""
    env = make(config.env, config.env_kwargs, config.wrappers)
    env.close()
    if kind == "oracle" and not hasattr(env.unwrapped, "oracle"):
        raise ValueError(f"{config.env} has no oracle(): it cannot say what would be best.")
    if kind in LEARNED:
        flat_space(flatten_space(env.observation_space))
        if config.steps < settings.rollout * config.num_envs:
            raise ValueError(
                f"steps = {config.steps} are fewer than one rollout of {settings.rollout} steps in "
                f"{config.num_envs} environments: nothing would be learned."
            )


class Watch(BaseCallback):
    """Writes finished episodes into the run's metrics, as our own training does."""

    def __init__(self, telemetry: Telemetry, every: int) -> None:
        super().__init__()
        self.telemetry, self.every, self.told = telemetry, every, 0

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                success = bool(info["is_success"]) if "is_success" in info else None
                found = info["episode"]
                self.telemetry.episode(Episode(index, int(found["l"]), float(found["r"]), success))
        if self.num_timesteps - self.told >= self.every:
            self.told = self.num_timesteps
            self.telemetry.write(self.num_timesteps, self.model._n_updates, {})
        return True
