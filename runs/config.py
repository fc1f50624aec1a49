"""All settings of a run, in one frozen tree. What they do is written where they are defined."""

import math
from dataclasses import dataclass, field
from typing import Any

from agent.actor_critic import BehaviourConfig
from agent.learner import OptimiserConfig
from agent.replay import ReplayConfig
from runs.device import pick_device, pick_scan
from worldmodel.kernel import BODIES
from worldmodel.long_context import LongContextConfig
from worldmodel.model import ModelConfig


@dataclass(frozen=True)
class Config:
    """A run: where the agent lives, how long it learns, and how."""

    env: str = "clew/TMaze-v0"
    """The environment: an id of Gymnasium's, module:Id, module:Class, or path/to/file.py:Class."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments, as name=value."""
    wrappers: tuple[str, ...] = ()
    """Wrappers around it, innermost first, as module:Class."""
    dataset: str = ""
    """A Minari dataset, by id or path, to learn the world model from instead of acting (see `clew
    collect`). Sets model_only, and the environment to the one it was recorded in."""
    num_envs: int = 16
    """Environments that are acted in side by side, or episodes of a dataset that are played so."""
    parallel: bool = False
    """Run each environment in a process of its own."""
    env_timeout: float = 120.0
    """Seconds that an environment in a process of its own may take for a step; 0 waits for ever."""
    env_restarts: int = 10
    """Times that environments that die, hang or return NaN are begun anew, before all ends; counted
    from each start, --resume and evaluation."""
    update_skips: int = 10
    """Updates in a row that are skipped, as their loss, gradient or state is not finite, before all
    ends with a dump for clew doctor."""
    steps: int = 100_000
    """Environment steps to train for."""
    prefill: int = 2_000
    """Environment steps before the first update."""
    replay_ratio: float = 32.0
    """Replayed frames learned from for each environment step."""
    explore: float = 0.0
    """Probability of a random action at each step of training, held for some steps (εz-greedy): for
    where something has to be looked for before it is known to be of use."""
    model_only: bool = False
    """Learn the world model alone, from the environment's own `explore` policy or else from random
    actions: to measure what a model remembers. The policy stays untrained."""
    seed: int = 0
    """Seeds everything."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto."""
    scan: str = "auto"
    """How scans are computed: torch, mamba-ssm (needs CUDA), or auto: mamba-ssm where it runs."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    log_every: int = 2_000
    """Environment steps between two lines of metrics."""
    checkpoint_every: int = 20_000
    """Environment steps between two checkpoints."""
    keep: int = 2
    """Newest checkpoints that are kept, besides the best one: that with the highest mean success
    (return, where none is told) of the last 100 episodes in training."""
    evaluation_episodes: int = 100
    """Episodes of the evaluation after training; 0 leaves it out."""
    model: ModelConfig = field(default_factory=ModelConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    context: LongContextConfig = field(default_factory=LongContextConfig)

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.scan not in BODIES:
            raise ValueError(f"scan = {self.scan!r} must be one of {', '.join(BODIES)}.")
        if self.scan == "mamba-ssm":
            pick_scan(self.scan, pick_device(self.device))
        if self.prefill >= self.steps:
            raise ValueError(
                f"prefill = {self.prefill} must be less than steps = {self.steps}, "
                "or nothing is learned."
            )
        starts = None if self.model_only or self.dataset else self.behaviour.starts
        self.context.check(self.replay.context, starts)

    def _check_numbers(self) -> None:
        for name in ("num_envs", "steps", "log_every", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1.")
        for name in (
            "prefill",
            "seed",
            "threads",
            "evaluation_episodes",
            "env_restarts",
            "update_skips",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative.")
        if not 0 <= self.env_timeout < math.inf:
            raise ValueError(f"env_timeout = {self.env_timeout} must be 0 or a positive number.")
        if not 0 < self.replay_ratio < math.inf:
            raise ValueError(f"replay_ratio = {self.replay_ratio} must be a positive number.")
        if not 0 <= self.explore <= 1:
            raise ValueError(f"explore = {self.explore} must lie in [0, 1].")

    @property
    def known_env(self) -> str:
        """The environment; ValueError where a dataset did not say which one it was recorded in."""
        if not self.env and self.dataset:
            raise ValueError(
                f"The dataset {self.dataset} does not say in which environment it was recorded, so "
                "nothing can be played there. Train with --dataset and --env to say it."
            )
        return self.env
