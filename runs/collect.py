"""Record episodes as a Minari dataset: `clew collect ENV --policy explorer|oracle|random|RUN`.

The same seed records the same data, and none of its episodes is one of training or evaluation.
"""

import copy
import re
import shlex
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

from agent.agent import Agent
from envs import EnvStreams, Record, make
from envs.dataset import import_minari
from envs.loading import absolute
from envs.recorder import Policy, Recorder, disk_bytes, write_dataset
from envs.stream import can
from runs import folder, hub
from runs.config import Config
from runs.device import check_threads, use_threads
from runs.evaluation.play import OraclePlayer, RandomPlayer
from runs.evaluation.subject import load_run
from runs.evaluation.suite import Budget, check_seed
from runs.session import env_name, program
from runs.train import make_streams
from worldmodel.actions import ActionCodec
from worldmodel.spaces import flatten_space, space_to_json

POLICIES = ("explorer", "oracle", "random")
INFOS = ("maze_layout", "agent_pos", "agent_dir", "targets_pos", "target_index")
STREAM = 0x636F6C6C  # tells the seeds of recording from those of training
SPARE = 1.4  # what must be free for a byte of the estimate: HDF5 fills up whole chunks
PROBE_STEPS, PROBE_SECONDS = 500, 1.0


@dataclass(frozen=True)
class CollectArguments:
    """Record episodes as a Minari dataset, to train on (clew train --dataset ID) or to keep."""

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """An id of Gymnasium's, module:Id, module:Class, or path/to/file.py:Class."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments, as name=value."""
    wrappers: tuple[str, ...] = ()
    """Wrappers around it, innermost first, as module:Class."""
    policy: Annotated[str, arg(metavar="explorer|oracle|random|RUN")] = "explorer"
    """Who acts: the environment's own `explore` (where it has none, at random), its own `oracle`,
    chance, or the agent of a run, whose folder (or hub:NAME) is named."""
    greedy: bool = False
    """Let the agent of a run take its most likely actions; else it draws them, as it trains."""
    frames: int = 100_000
    """Steps to record. Whatever episode a stream is in when it has its share is cut there."""
    num_envs: int = 8
    """Environments that are played side by side."""
    parallel: bool = False
    """Run each environment in a process of its own."""
    seed: int = 0
    """Which episodes, and which actions; never those of training or evaluation."""
    name: Annotated[str, arg(metavar="ID", help_behavior_hint="(default: ENV/POLICY-v0)")] = ""
    """Id of the dataset, such as mazes/wandering-v0; by default the first version that is free."""
    out: Annotated[
        str, arg(metavar="DIR", help_behavior_hint="(default: where Minari has its)")
    ] = ""
    """Where datasets are kept; this one in DIR/ID."""
    infos: tuple[str, ...] = INFOS
    """Parts of the environment's info to keep; of the default ones, those that it has."""
    max_steps: int = Budget.max_steps
    """Episodes are cut after so many steps, should the environment never end them."""
    device: str = "auto"
    """Where the agent of a run computes: cpu, cuda, or auto."""
    threads: int = 0
    """CPU threads of torch; 0: as many as the run was trained with."""
    json: bool = False
    """Print the report as JSON; everything else goes to stderr."""

    def __post_init__(self) -> None:
        for name in ("frames", "num_envs", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1.")
        check_seed(self.seed)
        check_threads(self.threads)


class Subject(NamedTuple):
    """What has to be known of an environment before it is played."""

    policies: tuple[str, ...]
    """What it has of its own to act by."""
    info: dict[str, Any]
    """What is kept of its first info."""
    ends: float
    """How often a random step ends an episode."""
    spec: EnvSpec | None
    """What makes the bare environment anew; None where that is not what is played."""


def collect(asked: CollectArguments, console: Console) -> dict[str, Any]:
    """Record a dataset; the report on it.

    Raises:
        RefusalError: for a mistake in what was asked for, and where the disk is too small.
    """
    with folder.refusing():
        config = _config(asked)
        subject = _examine(config, asked.infos)
        import_minari()
        name, path = _place(asked, "explorer" in subject.policies)
        infos = tuple(subject.info)
        seed = collection_seed(asked.seed)
        streams = make_streams(config, config.num_envs, seed, asked.max_steps, infos)
    try:
        with folder.refusing():
            policy, acts = _policy(asked, subject, streams)
            use_threads(asked.threads)
            size = _size(streams, subject, asked.frames)
            _check_room(path, size)
        about = _about(config, asked, acts)
        _announce(console, about, name, path, asked.frames, size)
        with _Bar(console, asked.frames) as bar:
            recorder = Recorder(streams, policy, asked.frames, infos, bar)
            _write(path, name, recorder, about, subject.spec)
    finally:
        streams.close()
    if not asked.out:
        _name_space(name)
    found_by = str(path) if asked.out else name
    report = {"dataset": name, "path": str(path), "found_by": found_by, **about}
    return report | {"frames": asked.frames, "seconds": bar.seconds} | _outcome(recorder, path)


def _config(asked: CollectArguments) -> Config:
    return Config(
        env=absolute(asked.env),
        env_kwargs=asked.env_kwargs,
        wrappers=asked.wrappers,
        parallel=asked.parallel,
        num_envs=min(asked.num_envs, asked.frames),
    )


def collection_seed(seed: int) -> int:
    """A seed for streams of episodes that no training and no evaluation has."""
    return int(np.random.SeedSequence([STREAM, seed]).generate_state(1, np.uint64)[0])


def _examine(config: Config, infos: tuple[str, ...]) -> Subject:
    """Play the first record of an environment, and see what it has."""
    env = make(config.env, config.env_kwargs, config.wrappers)
    try:
        flatten_space(env.observation_space)
        ActionCodec(env.action_space)
        _, info = env.reset(seed=0)
        names = {"explorer": "explore", "oracle": "oracle"}
        own = tuple(name for name, method in names.items() if can(env, method))
        return Subject(own, _kept(info, infos), _ends(env), _spec(env))
    finally:
        env.close()


def _kept(info: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The parts of an info that are kept: all that are named, or those of the default it has."""
    numbers = [name for name, value in info.items() if np.asarray(value).dtype.kind in "biuf"]
    missing = [name for name in names if name not in numbers]
    if missing and names != INFOS:
        has = f"it has {', '.join(numbers)}" if numbers else "it has none with numbers in it"
        raise ValueError(f"The environment's reset gives no info {missing[0]!r}; {has}.")
    return {name: info[name] for name in names if name in numbers}


def _ends(env: gym.Env) -> float:
    """How often a step of a short random walk ends an episode."""
    ends, steps, began = 0, 0, time.monotonic()
    env.action_space.seed(0)
    with suppress(Exception):  # of the environment's: the streams will tell, or survive it
        while steps < PROBE_STEPS and time.monotonic() - began < PROBE_SECONDS:
            steps += 1
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                ends += 1
                env.reset(seed=ends)
    return ends / steps


def _spec(env: gym.Env) -> EnvSpec | None:
    """What makes the environment anew by Gymnasium alone; None where that would be another."""
    bare, spec = env.unwrapped, copy.deepcopy(env.spec)
    spaces = (env.observation_space, env.action_space)
    if spec is None or spaces != (bare.observation_space, bare.action_space):
        return None
    spec.additional_wrappers = ()
    try:
        spec.to_json()
    except (TypeError, ValueError):  # made by a function, or with arguments that JSON has not
        return None
    return spec


def _place(asked: CollectArguments, explores: bool) -> tuple[str, Path]:
    """Id and folder of the dataset, which does not exist yet."""
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage import get_dataset_path

    root = Path(asked.out).expanduser().resolve() if asked.out else get_dataset_path()
    version, stem = 0, asked.name or _default_name(asked, explores)
    if asked.name:
        match = DATASET_ID_RE.fullmatch(asked.name)
        if not match or match["version"] is None:
            raise ValueError(
                f"{asked.name!r} is no id of a dataset: write name-v0, or namespace/name-v0, in "
                "letters, digits, - and _."
            )
        stem, version = asked.name.rpartition("-v")[0], int(match["version"])
    free = version
    while (root / f"{stem}-v{free}").exists():
        free += 1
    if asked.name and free != version:
        raise ValueError(
            f"The dataset {asked.name} exists already in {root}, and nothing in it is overwritten. "
            f"Take another --name, such as {stem}-v{free}."
        )
    return f"{stem}-v{free}", root / f"{stem}-v{free}"


def _default_name(asked: CollectArguments, explores: bool) -> str:
    """What an environment and whoever acts are called in an id."""
    policy = asked.policy if asked.policy in POLICIES else Path(asked.policy).resolve().name
    if policy == "explorer" and not explores:
        policy = "random"
    return "/".join(re.sub(r"[^-\w]+", "-", name) for name in (env_name(asked.env), policy))


def _policy(asked: CollectArguments, subject: Subject, streams: EnvStreams) -> tuple[Policy, str]:
    """Who acts, and in words."""
    if asked.policy == "oracle":
        if "oracle" not in subject.policies:
            raise ValueError(
                f"{asked.env} has no oracle: its unwrapped environment has no method oracle(), or "
                "a wrapper changes its actions. Take --policy explorer, random or a run."
            )
        return lambda _: streams.oracle(), "its oracle"
    if asked.policy == "explorer":
        own = "explorer" in subject.policies
        words = "its own explorer" if own else "random actions, since it has no explorer"
        return lambda _: streams.explore(), words
    if asked.policy == "random":
        return _random(streams), "random actions"
    return _agent(asked, streams)


def _random(streams: EnvStreams) -> Policy:
    space = copy.deepcopy(streams.action_space)
    space.seed(streams.seed % 2**32)
    return lambda _: np.stack([space.sample() for _ in range(streams.num_envs)])


def _agent(asked: CollectArguments, streams: EnvStreams) -> tuple[Policy, str]:
    """The newest agent of a run, which must know spaces like these."""
    run = hub.local(asked.policy)
    if not run.is_dir():
        raise ValueError(
            f"There is no policy {asked.policy!r}: it is {', '.join(POLICIES)}, or the folder of a "
            "run."
        )
    agent, config, _ = load_run(run, asked.device)
    if isinstance(agent, RandomPlayer | OraclePlayer):
        raise ValueError(
            f"{run} learned nothing to act by: take --policy random or oracle instead."
        )
    if config.model_only:
        raise ValueError(f"{run} learned the world model alone: it has no policy to act by.")
    for what in ("observation_space", "action_space"):
        known, here = (space_to_json(getattr(part, what)) for part in (agent, streams))
        if known != here:
            raise ValueError(f"The agent of {run} knows the {what} {known}, and here it is {here}.")
    return AgentPolicy(agent, streams.num_envs, asked.greedy), f"the agent of {run}" + (
        ", greedily" if asked.greedy else ""
    )


class AgentPolicy:
    """An agent that acts in environments side by side."""

    def __init__(self, agent: Agent, num_envs: int, greedy: bool) -> None:
        self.agent, self.greedy = agent, greedy
        self.state = agent.initial(num_envs)

    def __call__(self, record: Record) -> np.ndarray:
        """Its actions after the newest record."""
        observation = self.agent.to_tensors(record.observation)
        is_first = torch.as_tensor(record.is_first, device=self.agent.device)
        action, self.state = self.agent.act(observation, self.state, is_first, self.greedy)
        return action.cpu().numpy()


def _size(streams: EnvStreams, subject: Subject, frames: int) -> int:
    """About what the dataset takes on disk, in bytes."""
    episodes = streams.num_envs + frames * subject.ends
    return disk_bytes(streams, subject.info, frames, episodes)


def _check_room(path: Path, size: int) -> None:
    disk = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(disk).free
    if size * SPARE > free:
        raise ValueError(
            f"The dataset takes about {size / 1e6:,.0f} MB, and {disk} has {free / 1e6:,.0f} MB "
            "free. Ask for fewer --frames, or put the dataset elsewhere with --out."
        )


def _about(config: Config, asked: CollectArguments, acts: str) -> dict[str, Any]:
    """What the dataset says of itself."""
    kwargs = "".join(f" {k}={v}" for k, v in config.env_kwargs.items())
    return {
        "version": folder.version(),
        "env": config.env,
        "env_kwargs": config.env_kwargs,
        "wrappers": list(config.wrappers),
        "policy": asked.policy,
        "description": f"Recorded in {config.env}{kwargs} by {acts}, seed {asked.seed}.",
        "num_envs": config.num_envs,
        "seed": asked.seed,
    }


def _write(
    path: Path, name: str, recorder: Recorder, about: dict[str, Any], spec: EnvSpec | None
) -> None:
    """Record; torch's random state is left as it was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(about["seed"])
            write_dataset(path, name, recorder, about, spec)
    except BrokenPipeError:
        raise  # of the display
    except OSError as error:
        raise folder.RefusalError(
            f"{path} cannot be written ({error}); nothing of it is left. Is the disk full?"
        ) from error


def _name_space(dataset_id: str) -> None:
    """Tell Minari of the part of an id before its last slash, as its own collector does."""
    from minari.namespace import create_namespace, list_local_namespaces

    namespace = dataset_id.rpartition("/")[0]
    if namespace and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _announce(
    console: Console, about: dict[str, Any], name: str, path: Path, frames: int, size: int
) -> None:
    """What is about to be recorded, and what it takes."""
    lines = [
        f"{about['description']} {about['num_envs']} side by side.",
        f"Dataset: {name}, {frames:,} steps, about {size / 1e6:,.1f} MB",
        f"In: {path}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


def _outcome(recorder: Recorder, path: Path) -> dict[str, Any]:
    """What became of the episodes; means are over those that were not cut."""
    whole = [one for one in recorder.told if not one["cut"]]
    told = any("success" in one for one in recorder.told)  # some say it of successes alone
    successes = [one.get("success", False) for one in whole] if told else []
    return {
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "episodes": len(recorder.told),
        "cut": len(recorder.told) - len(whole),
        "return": float(np.mean([one["return"] for one in whole])) if whole else None,
        "success": float(np.mean(successes)) if successes else None,
        "restarts": recorder.streams.restarts,
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print what was recorded, and what to do with it."""
    pace = report["frames"] / report["seconds"]
    told = [f"{report['episodes']:,} episodes, {report['cut']:,} of them cut"]
    told += [f"return {report['return']:.4g}"] if report["return"] is not None else []
    told += [f"success {report['success']:.1%}"] if report["success"] is not None else []
    told += [f"{report['bytes'] / 1e6:,.1f} MB", f"{pace:,.0f} steps/s"]
    if report["restarts"]:
        told.append(f"environments failed and were begun anew {report['restarts']} times")
    lines = [
        f"Recorded {', '.join(told)}. Next:",
        f"  {program('clew')} train --dataset {shlex.quote(report['found_by'])}",
    ]
    if report["cut"] == report["episodes"]:
        lines.append("No episode is whole: more --frames, or fewer --num-envs, let some end.")
    console.print("\n".join(lines), soft_wrap=True, markup=False)


class _Bar:
    """How far the recording is: a bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.began = console, total, time.monotonic()
        self.seconds = 0.0
        self.lines = 0
        columns = BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        self.bar = Progress(*columns, console=console) if console.is_terminal else None
        self.task = self.bar.add_task("", total=total) if self.bar else None

    def __enter__(self) -> "_Bar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self.began
        if self.bar:
            self.bar.stop()

    def __call__(self, done: int) -> None:
        """So many steps are recorded."""
        pace = done / max(time.monotonic() - self.began, 1e-9)
        line = f"{done:,}/{self.total:,} steps · {pace:,.0f} steps/s"
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done, description=line)
        elif done * 10 // self.total > self.lines:
            self.lines = done * 10 // self.total
            self.console.print(line, soft_wrap=True)
