"""The training loop: collect a step everywhere, learn as much as is due, tell, save.

Starting and resuming are one path: a resumed run is a new one whose parts were loaded. On a CPU
its metrics are those of the run that never stopped, bit for bit.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.agent import Agent
from agent.exploration import explore, idle
from agent.learner import Learner, NonFiniteError
from agent.replay import Fields, Replay, replay_bytes
from envs import EnvStreams, make
from envs.dataset import DatasetStreams
from runs import checkpoint, crash
from runs.config import Config
from runs.crash import CrashError
from runs.device import pick_device, pick_scan
from runs.folder import load_checkpoint
from runs.storage import check_memory, check_room, writing
from runs.telemetry import Telemetry
from worldmodel.layers import use_scan
from worldmodel.spaces import flatten_observation
from worldmodel.types import Records, tree_leaves, tree_unflatten

LEAST_OF_ENV = 10_000  # bytes


class Trainer:
    """One run, from its first step or from its last checkpoint on.

    Raises:
        ValueError: for settings or spaces that do not fit, before anything is written.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.device = pick_device(config.device)
        self.scan = pick_scan(config.scan, self.device)
        torch.manual_seed(config.seed)
        if config.threads:
            torch.set_num_threads(config.threads)
        needed = config.num_envs * LEAST_OF_ENV
        check_memory(needed, f"num_envs = {config.num_envs:,}", "lower --num-envs")
        self.streams = _streams(config)
        try:
            self._build()
        except BaseException:
            self.streams.close()
            raise

    def _build(self) -> None:
        config = self.config
        self._check_memory()
        self.agent, self.learner = self._make(self.device)
        use_scan(self.agent, self.scan)
        self.replay = self._make_replay()
        self.telemetry = Telemetry(self.folder)
        self.env_steps, self.due, self.stop = 0, 0.0, False
        self.restarts_before = 0
        self.skipped, self.skipped_in_a_row = 0, list[str]()
        self.state = self.agent.initial(config.num_envs)
        self.exploration = idle(self.state.prev_action)

    def _check_memory(self) -> None:
        """See that there is memory for all that learning holds, without taking any."""
        cure = "lower --model.width or its other sizes, or lower --replay.batch"
        try:
            with torch.random.fork_rng([]), torch.device("meta"):
                needed = checkpoint.size(self._make(torch.device("meta"))[1])
        except (TypeError, RuntimeError, OverflowError) as error:
            if "overflow" not in str(error).lower():
                raise
            raise ValueError(f"Sizes are larger than can be counted: {cure}.") from error
        check_memory(needed, "What is learned", cure)

    def _make(self, device: torch.device) -> tuple[Agent, Learner]:
        """Agent and learner, before they have learned anything."""
        config, streams = self.config, self.streams
        agent = Agent(streams.observation_space, streams.action_space, config.model).to(device)
        parts = config.behaviour, config.optimiser, config.context
        return agent, Learner(agent, *parts, config.replay.batch, config.model_only).to(device)

    def start(self) -> None:
        """Begin with the first record of every environment."""
        self.telemetry.forget()
        self.record = self.streams.reset()

    def resume(self, path: Path) -> None:
        """Begin where a checkpoint ended.

        Raises:
            DamagedError: where the checkpoint, or the replay that it sees, is damaged.
            ValueError: where they do not fit.
        """
        streams = load_checkpoint(self._load, path)
        self.record = self.streams.restore(streams)

    def _load(self, path: Path) -> dict[str, Any]:
        """Restore all but the environments; returns where those are."""
        state = checkpoint.load(path, self.agent, self.learner)
        self.env_steps, self.due = state["env_steps"], state["due"]
        self.restarts_before = state.get("restarts", 0)
        self.skipped = state.get("skipped", 0)
        self.skipped_in_a_row = state.get("skipped_in_a_row", [])
        self.replay.load_state(state["replay"])
        self.telemetry.load_state(state["telemetry"], self.env_steps)
        acting = self.state, self.exploration
        leaves = [torch.from_numpy(leaf).to(self.device) for leaf in state["acting"]]
        leaves += tree_leaves(acting)[len(leaves) :]  # of a run from before there was exploration
        self.state, self.exploration = tree_unflatten(acting, leaves)
        return state["streams"]

    def run(
        self, steps: int | None = None, on_progress: Callable[["Trainer"], None] | None = None
    ) -> None:
        """Train up to so many environment steps (default: the config's), or until `stop`.

        Raises:
            CrashError: where a loss, a gradient or a state is not finite, too often in a row.
            StorageError: where the run cannot be written any more.
        """
        steps = steps or self.config.steps
        while self.env_steps < steps and not self.stop:
            before = self.env_steps
            self.collect()
            self.learn()
            if _passed(before, self.env_steps, self.config.log_every):
                self._tell()
            last = self.env_steps >= steps
            if _passed(before, self.env_steps, self.config.checkpoint_every) and not last:
                self.save()
            if on_progress:
                on_progress(self)
        # Not where it was interrupted: a resumed run writes the lines of one that never stopped.
        if self.env_steps >= steps and self.telemetry.sums:
            self._tell()
        self.save()

    def _tell(self) -> None:
        totals = {"episode/restarts": self.restarts, "skipped_updates": self.skipped}
        with writing(self.folder):
            self.telemetry.write(self.env_steps, self.learner.updates, totals)

    @property
    def restarts(self) -> int:
        """How often an environment failed and was begun anew, in the whole run."""
        return self.restarts_before + self.streams.restarts

    def collect(self) -> None:
        """Store the newest record of every environment and act on it."""
        observation = flatten_observation(self.agent.model.codec.names, self.record.observation)
        record = self._replay_record(observation)
        self.replay.add(record)
        self.record = self.streams.step(self._act(observation))
        taken = int((~self.record.is_first).sum())
        self.env_steps += taken
        if self.env_steps >= self.config.prefill:
            frames = self.config.replay.batch * self._context()
            self.due += taken * self.config.replay_ratio / frames
        for episode in self.record.episodes:
            self.telemetry.episode(episode)

    def _act(self, observation: dict[str, np.ndarray]) -> np.ndarray:
        """Actions of the agent, of an explorer or of a dataset, kept as what leads to the next."""
        if self.config.model_only:
            action = self.streams.explore()
            self.state = self.state._replace(prev_action=torch.as_tensor(action))
            return action
        tensors = {name: torch.as_tensor(v, device=self.device) for name, v in observation.items()}
        is_first = torch.as_tensor(self.record.is_first, device=self.device)
        action, self.state = self.agent.act(tensors, self.state, is_first)
        if not self.state.carry.features.isfinite().all():
            error = NonFiniteError("The state that the agent acts from")
            raise self._crash(error, self._replay_record(observation)) from error
        if rate := self.config.explore:
            codec = self.agent.model.actions
            action, self.exploration = explore(action, self.exploration, is_first, rate, codec)
            self.state = self.state._replace(prev_action=action)
        return action.cpu().numpy()

    def learn(self) -> None:
        """Make the updates that are due."""
        while self.due >= 1 and self.replay.ready():
            arrays, continues = self.replay.sample(self._context())
            self._update(arrays, continues)
            self.due -= 1

    def _context(self) -> int:
        """Frames a row reads in the next update."""
        return self.config.context.length(self.learner.updates, self.config.replay.context)

    def _update(self, arrays: dict[str, np.ndarray], continues: np.ndarray) -> None:
        """One update, or none where it would not be finite: then all is as it was before."""
        if self.skipped_in_a_row:  # what is carried ends before the batch that was skipped
            continues = np.zeros_like(continues)
        buffers = {name: value.clone() for name, value in self.learner.named_buffers()}
        random_state = torch.get_rng_state()
        records = to_records(arrays, self.device)
        done, goes_on = self.env_steps / self.config.steps, torch.as_tensor(continues)
        try:
            metrics = self.learner.update(records, goes_on.to(self.device), done)
        except NonFiniteError as error:
            self.learner.load_state_dict(buffers, strict=False)
            torch.set_rng_state(random_state)
            self._skip(error, arrays | {"continues": continues})
        else:
            self.skipped_in_a_row = []
            self.telemetry.count(metrics)

    def _skip(self, error: NonFiniteError, batch: dict[str, np.ndarray]) -> None:
        """Count an update that came to nothing; CrashError where there were too many in a row."""
        if len(self.skipped_in_a_row) >= self.config.update_skips:
            raise self._crash(error, batch) from error
        self.skipped += 1
        self.skipped_in_a_row.append(error.where)

    def save(self) -> Path:
        """Write a checkpoint."""
        streams = self.streams.state()  # may fail as an environment does, not as a disk
        with writing(self.folder):
            return self._save(streams)

    def _save(self, streams: dict[str, Any]) -> Path:
        self.replay.flush()
        score = None if self.config.model_only else self.telemetry.score()
        state: dict[str, Any] = {
            "env_steps": self.env_steps,
            "due": self.due,
            "restarts": self.restarts,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "replay": self.replay.state(),
            "telemetry": self.telemetry.state(),
            "streams": streams,
            "acting": [leaf.cpu().numpy() for leaf in tree_leaves((self.state, self.exploration))],
        }
        where = state, self.env_steps, self.config.keep, score
        return checkpoint.save(self.folder, self.agent, self.learner, *where)

    def _crash(self, error: NonFiniteError, batch: dict[str, np.ndarray]) -> CrashError:
        """Save a batch and the state that could not take it."""
        state = {"env_steps": self.env_steps, "due": self.due}
        skipped = [*self.skipped_in_a_row, error.where]
        with writing(self.folder):
            saved = crash.write(self.folder, self.agent, self.learner, state, batch, skipped)
        return CrashError(error, self.env_steps, self.learner.updates, saved)

    def close(self) -> None:
        """Release environments and files."""
        self.streams.close()
        self.telemetry.close()

    def _make_replay(self) -> Replay:
        codec = self.agent.model.codec
        fields = {
            f"observation/{name}": (np.dtype(codec.dtypes[name]), codec.shapes[name])
            for name in codec.names
        }
        action = self.streams.action_space
        fields |= {
            "prev_action": (np.dtype(action.dtype), tuple(action.shape or ())),
            "reward": (np.dtype(np.float32), ()),
            "is_first": (np.dtype(bool), ()),
            "is_terminal": (np.dtype(bool), ()),
        }
        config = self.config
        # Enough for the last checkpoints: an environment step takes two records at most.
        slack = (config.checkpoint_every // config.num_envs + 2) * 2 * max(config.keep, 2)
        self._check_room(fields, slack)
        folder, parts = self.folder / "replay", (fields, config.num_envs, config.replay)
        with writing(self.folder):
            return Replay(folder, *parts, config.seed, slack)

    def _check_room(self, fields: Fields, slack: int) -> None:
        """See that all that will be written has room; what is there already takes no more."""
        config, there = self.config, len(checkpoint.complete(self.folder))
        replay = replay_bytes(fields, config.num_envs, config.replay, slack)
        # Besides the last ones there are the best one and the one that is being written.
        checkpoints = max(1, config.keep + 2 - there) * checkpoint.size(self.learner)
        replay *= not (self.folder / "replay").exists()
        check_room(self.folder, {"of replay": replay, "of checkpoints": checkpoints})

    def _replay_record(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            **{f"observation/{name}": value for name, value in observation.items()},
            "prev_action": self.state.prev_action.cpu().numpy(),
            "reward": self.record.reward,
            "is_first": self.record.is_first,
            "is_terminal": self.record.is_terminal,
        }


def _streams(config: Config) -> EnvStreams | DatasetStreams:
    """What a run learns from."""
    if not config.dataset:
        return make_streams(config, config.num_envs, config.seed)
    if not config.model_only:
        raise ValueError("Only a world model learns from a dataset: set model_only = True.")
    return DatasetStreams(config.dataset, config.num_envs, config.seed)


def make_streams(
    config: Config,
    num_envs: int,
    seed: int,
    max_steps: int | None = None,
    infos: Sequence[str] = (),
) -> EnvStreams:
    """The environments that a config asks for; episodes are cut after `max_steps`.

    Records bring the named `infos`, where the environment has them.
    """
    return EnvStreams(
        partial(make, config.known_env, config.env_kwargs, config.wrappers, max_steps),
        num_envs,
        seed,
        config.parallel,
        config.env_timeout or None,
        config.env_restarts,
        infos,
    )


def to_records(arrays: dict[str, np.ndarray], device: torch.device) -> Records:
    """A batch from replay as tensors."""
    tensors = {name: torch.as_tensor(value, device=device) for name, value in arrays.items()}
    names = [name for name in tensors if name.startswith("observation/")]
    observation = {name.removeprefix("observation/"): tensors.pop(name) for name in names}
    return Records(observation, **tensors)


def _passed(before: int, after: int, every: int) -> bool:
    return after // every > before // every
