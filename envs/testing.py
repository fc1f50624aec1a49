"""What every environment has to keep, as a test to inherit: ours do, and yours can.

    from envs.testing import EnvContract

    class TestMine(EnvContract):
        env_id = "path/to/file.py:Mine"
        solved = 0.95

pytest runs what begins with `test_`. An environment with an `oracle()`, which gives the best
action, is also asked whether it can be solved. Nothing here needs pytest.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env

from envs.check import check
from envs.registry import make
from envs.stream import plain, same

CARD = ("Description", "Observation Space", "Action Space", "Rewards", "Termination", "Floor")

Policy = Callable[[gym.Env], Any]


class EnvContract:
    """The contract of one environment; a subclass says which, and what its oracle reaches."""

    env_id: ClassVar[str]
    kwargs: ClassVar[Mapping[str, Any]] = {}
    steps: ClassVar[int] = 300
    """Steps of random actions that are looked at."""
    seeds_differ: ClassVar[bool] = True
    """Whether another seed is another episode."""
    solved: ClassVar[float | None] = None
    """The mean score that `oracle()` must reach; None where there is no oracle."""
    episodes: ClassVar[int] = 20
    """Episodes that the oracle plays."""
    card: ClassVar[tuple[str, ...]] = CARD
    """Sections that the docstring must have."""

    def make(self) -> gym.Env:
        """The environment, without our own guard around it."""
        return make(self.env_id, self.kwargs, guard=False)

    def test_gymnasium_finds_nothing_wrong(self) -> None:
        """Fails where Gymnasium's own checker complains."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not been tested.*|.*render.*")
            check_env(self.make().unwrapped, skip_render_check=True)

    def test_clew_finds_nothing_wrong(self) -> None:
        """Fails where an observation, reward, end or seed is not what the spaces promise."""
        found = check(self.make(), self.steps)
        assert not found.wrong, found.wrong

    def test_the_seed_decides_everything(self) -> None:
        """Fails where another copy of the environment plays otherwise, or all seeds alike."""
        one, again = (self.play(self.random(1), 1, self.steps)[0] for _ in range(2))
        assert same(one, again), "two copies, one seed, and different episodes"
        others = [self.play(self.random(1), seed, self.steps)[0] for seed in range(2, 9)]
        differ = any(not same(one, other) for other in others)
        assert differ == self.seeds_differ, f"seeds make a difference: {differ}"

    def test_the_card_is_complete(self) -> None:
        """Fails where a user cannot read what the task is, what is paid, and what chance scores."""
        text = inspect.getdoc(type(self.make().unwrapped)) or ""
        missing = [title for title in self.card if f"## {title}" not in text]
        assert not missing, f"the docstring has no section {missing}"

    def test_the_oracle_solves_it(self) -> None:
        """Fails where the task cannot be solved, or its success is not told."""
        if self.solved is None:
            return
        scores = [self.score(*self.play(_oracle, seed)) for seed in range(self.episodes)]
        assert np.mean(scores) >= self.solved, f"the oracle scores {np.mean(scores):.3g}"

    def score(self, record: list[Any], info: Mapping[str, Any]) -> float:
        """How well an episode went: its success where the info tells it, and else its return."""
        return float(info.get("is_success", sum(step[1] for step in record[1:])))

    def random(self, seed: int) -> Policy:
        """A policy that draws from the action space."""
        rng = np.random.default_rng(seed)

        def act(env: gym.Env) -> Any:
            env.action_space.seed(int(rng.integers(2**31)))
            return env.action_space.sample()

        return act

    def play(
        self, act: Policy, seed: int, steps: int | None = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """All that was seen, paid and told in an episode, or so many steps of it, and the info."""
        env, info = self.make(), {}
        record: list[Any] = [plain(env.reset(seed=seed)[0])]
        while steps is None or len(record) <= steps:
            seen, reward, terminated, truncated, info = env.step(act(env))
            record.append([plain(seen), float(reward), terminated, truncated])
            if terminated or truncated:
                break
        env.close()
        return record, info


def _oracle(env: gym.Env) -> Any:
    return env.unwrapped.oracle()  # pyright: ignore[reportAttributeAccessIssue]
