"""Play an environment, and write down its speed and all that is wrong with it.

Unusual: nothing is raised and nothing put right, so that all faults are found at once. The cures
are for whoever wrote the environment.
"""

import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.contract import (
    STEP,
    Fault,
    chance_fault,
    delay_fault,
    is_action,
    reset_faults,
    rule_of,
    signature_fault,
    step_faults,
)
from envs.stream import plain, same

REPEATED = 200  # steps of the first episode that are played again
VIEWED = 100  # steps whose observations are watched for later changes
LATE = 1.0  # seconds after which a call that is interrupted may have hung


@dataclass
class Findings:
    """What came of playing: speed in steps per second, resets included, and what to mend."""

    steps: int = 0
    episodes: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds if self.seconds else 0.0


def check(env: gym.Env, steps: int = 1000, seed: int = 0) -> Findings:
    """Play so many steps of random actions, and then the first episode again."""
    player = _Player(env, seed)
    try:
        player.play(steps)
        player.repeat()
    except _Broken:
        pass
    except KeyboardInterrupt:
        player.found.notes.append(f"interrupted after {player.found.steps:,} steps")
    return player.conclude()


class _Broken(Exception):  # noqa: N818 (what is broken is noted already)
    """The environment cannot be played any further."""


class _Player:
    """One check in progress."""

    def __init__(self, env: gym.Env, seed: int) -> None:
        self.env, self.seed, self.found = env, seed, Findings()
        self.paid = False
        self.first: list[tuple[Any, tuple[Any, ...]]] = []  # actions, and what came of them
        self.told: set[str] = set()
        env.action_space.seed(seed)

    def play(self, steps: int) -> None:
        """Random actions, episode after episode."""
        self.warm_up()
        observation = self.begin()
        self.start = plain(observation)
        while self.found.steps < steps:
            before = plain(observation)
            action = self.env.action_space.sample()
            result = self.act(action)
            if self.found.steps <= VIEWED and not same(plain(observation), before):
                self.tell(Fault(_VIEW))
            if not self.found.episodes and len(self.first) < REPEATED:
                self.first.append((action, (plain(result[0]), *result[1:4])))
            observation = result[0]
            self.paid |= bool(np.any(result[1]))
            if result[2] or result[3]:
                self.found.episodes += 1
                if self.found.episodes == 1:
                    self.act_after_the_end()
                observation = self.begin()

    def warm_up(self) -> None:
        """A first step that is not timed: it may compile what later ones only run."""
        if fault := signature_fault(self.env):
            self.tell(Fault(fault))
            raise _Broken
        self.begin()
        self.ask("explore", np.random.default_rng(self.seed))
        self.ask("oracle")
        self.tell_odd_attributes()
        self.act(self.env.action_space.sample())
        self.found.steps, self.found.seconds = 0, 0.0

    def tell_odd_attributes(self) -> None:
        """What evaluation reads off the environment itself."""
        for fault in filter(None, (chance_fault(self.env), delay_fault(self.env))):
            self.tell(Fault(fault))

    def ask(self, name: str, *arguments: Any) -> None:
        """What the environment itself would do, where it says that, must be an action."""
        bare, space = self.env.unwrapped, self.env.action_space
        if hasattr(bare, name) and space == bare.action_space:
            with suppress(_Broken):  # told, and no reason not to play
                action = self.call(name, getattr(bare, name), *arguments)
                if not is_action(space, action):
                    self.tell(Fault(f"{name}() returned {action!r}, which is no action of {space}"))

    def begin(self, repeated: bool = False) -> Any:
        """Reset, and what is seen first."""
        # Every episode but the first is another one.
        number = 0 if repeated else self.found.episodes
        result = self.call("reset", self.env.reset, seed=self.seed + number)
        self.judge(reset_faults(self.env.observation_space, result))
        if not isinstance(result, tuple) or len(result) != 2:
            raise _Broken
        return result[0]

    def act(self, action: Any) -> Any:
        """One step further."""
        result = self.call("step", self.env.step, action)
        self.found.steps += 1
        self.judge(step_faults(self.env.observation_space, result))
        if not isinstance(result, tuple) or len(result) != 5:
            raise _Broken
        return result

    def act_after_the_end(self) -> None:
        """A step that nobody should take: what it gives is told, but it may give anything."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self.env.step(self.env.action_space.sample())
        except Exception:  # a good answer
            return
        if not (result[2] or result[3]):
            self.found.notes.append(
                "step() after the end of an episode goes on as if nothing had ended. Training "
                "always resets; `raise` there if you want to be told of such a step"
            )

    def repeat(self) -> None:
        """The first episode again, which must go the same way."""
        again = self.begin(repeated=True)
        if not same(plain(again), self.start):
            return self.tell(Fault(_differs("the first observation", _key(self.start, again))))
        for number, (action, expected) in enumerate(self.first, 1):
            seen, *paid, _ = self.call("step", self.env.step, action)
            if not same(plain(seen), expected[0]):
                where = f"the observation of step {number}"
                return self.tell(Fault(_differs(where, _key(expected[0], seen))))
            if not same(plain(tuple(paid)), plain(expected[1:])):
                return self.tell(Fault(_differs(f"reward or end of step {number}", "")))
        return None

    def conclude(self) -> Findings:
        """What was found, and what never was."""
        found = self.found
        if found.steps and not found.episodes and not found.wrong:
            found.notes.append(
                f"no episode ended within {found.steps:,} steps. If none ever does, cut them: "
                "max_episode_steps=1000 among the --env-kwargs"
            )
        if found.steps and not self.paid and not found.wrong:
            found.notes.append(
                f"no reward but 0 came in {found.steps:,} random steps: an agent that explores at "
                "random may never learn what is wanted"
            )
        return found

    def judge(self, faults: Any) -> None:
        for fault in faults:
            self.tell(fault)

    def tell(self, fault: Fault) -> None:
        """Once for each key and rule."""
        if rule_of(fault.text) not in self.told:
            self.told.add(rule_of(fault.text))
            self.found.wrong.append(fault.text)

    def call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a method returns; the time it takes is counted."""
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        except (Exception, SystemExit) as error:
            self.tell(Fault(_raised(name, error, self.where(error))))
            raise _Broken from error
        except KeyboardInterrupt as stop:
            self.tell_late(name, time.perf_counter() - began, self.where(stop))
            raise
        finally:
            self.found.seconds += time.perf_counter() - began

    def tell_late(self, name: str, seconds: float, where: str) -> None:
        if seconds > LATE:
            text = f"{name}() gave no answer for {seconds:.1f} s, and was interrupted ({where}). "
            self.tell(Fault(f"{text}Training begins it anew with --parallel --env-timeout SECONDS"))

    def where(self, error: BaseException) -> str:
        """The line of the environment's own file that an error came through, or else the last."""
        frames = traceback.extract_tb(error.__traceback__)
        own = getattr(sys.modules.get(type(self.env.unwrapped).__module__), "__file__", None)
        last = next((f for f in reversed(frames) if f.filename == own), frames[-1])
        return f"{Path(last.filename).name}, line {last.lineno}"


_VIEW = (
    "The observation that reset() or step() returned is changed by the next step: it is a view of "
    "a buffer that is used again. Return a copy, such as observation.copy()"
)


def _raised(name: str, error: BaseException, where: str) -> str:
    if isinstance(error, ValueError) and "values to unpack" in str(error):
        rule = f"`return {STEP}`" if name == "step" else "`return observation, info`"
        text = str(error).removeprefix("not enough values to unpack ").strip("()")
        return f"{name}() returned another number of values ({text}): Gymnasium's rule is {rule}"
    return f"{name}() raised {type(error).__name__}: {error} ({where})"


def _differs(what: str, key: str) -> str:
    where = f"{what} ({key!r})" if key else what
    return (
        f"{where} differs although seed and actions are the same: a resumed run cannot go on where "
        "it was. Call `super().reset(seed=seed)` and draw from self.np_random alone, and let "
        "reset() set back all that step() changes"
    )


def _key(one: Any, other: Any) -> str:
    """The first key of a Dict that differs; "" for other spaces."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return ""
    return next((key for key in one if key in other and not same(one[key], plain(other[key]))), "")
