"""What an agent is worth: new episodes, played greedily, with memory and with memory off.

Memory off is the same agent with its state cleared before every record: what it does then, it does
from one frame. Every environment plays a fixed share of the episodes, so that short ones, which end
sooner, are not counted more often.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agent.agent import Agent
from envs import EnvStreams, Episode
from runs import folder
from runs.config import Config
from runs.device import pick_device, pick_scan
from runs.train import make_streams
from worldmodel.layers import use_scan

logger = logging.getLogger(__name__)

EPISODES = 200
MAX_STEPS = 20_000
ENVS = 32
Z95 = 1.959964
STREAM = 0x65766173  # tells the seeds of evaluation from those of training


def evaluate_run(
    run: Path,
    episodes: int = EPISODES,
    seed: int = 0,
    device: str = "auto",
    max_steps: int = MAX_STEPS,
) -> dict[str, Any]:
    """Evaluate a run's newest agent; the report, which is also evaluation/evaluation.json.

    Raises:
        RefusalError: where the folder is not a run, its newest checkpoint is missing or damaged,
            or its environment is not there any more.
    """
    with folder.refusing():
        agent, config = load_run(run, device)
        if config.model_only:
            raise ValueError(
                f"{run} learned the world model alone (model_only): there is no policy to evaluate."
                " Measure the model with clew bench memory or clew bench dream."
            )
    report = evaluate_agent(agent, config, episodes, seed, max_steps)
    folder.write_json(run / "evaluation" / "evaluation.json", report)
    return report


def load_run(run: Path, device: str) -> tuple[Agent, Config]:
    """A run's newest agent, and its settings; torch's random state is left as it was.

    torch gets as many threads as the run had.

    Raises:
        ValueError: where the folder is not a run, or its newest checkpoint is missing or damaged.
    """
    config, _ = folder.read_config(run)
    if config.threads:
        torch.set_num_threads(config.threads)
    newest = folder.newest_checkpoint(run)
    with torch.random.fork_rng([]):  # making an agent draws weights, even if they are then loaded
        agent = folder.load_checkpoint(lambda path: Agent.load(path, pick_device(device)), newest)
    use_scan(agent, pick_scan(config.scan, agent.device))
    return agent, config


def evaluate_agent(
    agent: Agent, config: Config, episodes: int, seed: int, max_steps: int = MAX_STEPS
) -> dict[str, Any]:
    """The report on an agent: the same episodes with memory and with memory off."""
    off, on = (evaluate(agent, config, episodes, seed, m, max_steps) for m in (False, True))
    about = {"env": config.env, "episodes": episodes, "seed": seed}
    return {**about, **on, "memory_off": off}


def evaluate(
    agent: Agent,
    config: Config,
    episodes: int,
    seed: int,
    memory: bool = True,
    max_steps: int = MAX_STEPS,
) -> dict[str, Any]:
    """Return, success and length over new episodes, each with its 95 % interval.

    The same numbers for the same seed; torch's random state is left as it was. Episodes that
    reach `max_steps` are cut there, with a warning.
    """
    devices = [agent.device] if agent.device.type == "cuda" else []
    with folder.refusing():
        streams = make_streams(config, min(episodes, ENVS), evaluation_seed(seed), max_steps)
    try:
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            found = play(agent, streams, episodes, memory)
    finally:
        streams.close()
    if cut := sum(episode.length >= max_steps for episode in found):
        logger.warning("%d of %d episodes were cut after %d steps", cut, episodes, max_steps)
    return summary(found)


def evaluation_seed(seed: int) -> int:
    """A seed for streams of episodes that no training run has."""
    return int(np.random.SeedSequence([STREAM, seed]).generate_state(1, np.uint64)[0])


def play(agent: Agent, streams: EnvStreams, episodes: int, memory: bool = True) -> list[Episode]:
    """Play so many episodes greedily; each environment its share, the first ones one more."""
    n = streams.num_envs
    left = np.array([episodes // n + (i < episodes % n) for i in range(n)])
    found: list[Episode] = []
    record, state = streams.reset(), agent.initial(n)
    while left.any():
        if not memory:
            state = agent.initial(n)
        is_first = torch.as_tensor(record.is_first | (not memory), device=agent.device)
        observation = agent.to_tensors(record.observation)
        action, state = agent.act(observation, state, is_first, deterministic=True)
        record = streams.step(action.cpu().numpy())
        for episode in record.episodes:
            if left[episode.env_index]:
                left[episode.env_index] -= 1
                found.append(episode)
    return found


def summary(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Means and rates over episodes; success is None where no environment reports it."""
    successes = [bool(e.success) for e in episodes]
    reported = any(e.success is not None for e in episodes)
    return {
        "return": mean_ci([e.return_ for e in episodes]),
        "success": rate_ci(successes) if reported else None,
        "length": mean_ci([e.length for e in episodes]),
    }


def mean_ci(values: Sequence[float]) -> dict[str, Any]:
    """Mean and its normal 95 % interval, mean ± 1.96 s / √n; no interval for a single value."""
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return {"mean": mean, "ci95": None}
    half = Z95 * float(array.std(ddof=1)) / math.sqrt(len(array))
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def rate_ci(outcomes: Sequence[bool]) -> dict[str, Any]:
    """Rate and its Wilson score interval of 95 %, which is honest near 0 and 1 as well."""
    n, rate = len(outcomes), sum(outcomes) / len(outcomes)
    spread = Z95 * math.sqrt(rate * (1 - rate) / n + Z95**2 / (4 * n**2))
    centre, scale = rate + Z95**2 / (2 * n), 1 + Z95**2 / n
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return {"rate": rate, "ci95": [max(0.0, low), min(1.0, high)]}


def show(report: dict[str, Any], console: Console | None = None) -> None:
    """Print a report as a table."""
    title = f"{report['env']}: {report['episodes']} new episodes, seed {report['seed']}"
    table = Table("", "return", "success", "length", title=title, title_justify="left")
    for name, part in (("with memory", report), ("memory off", report["memory_off"])):
        table.add_row(name, *(_cell(part[key]) for key in ("return", "success", "length")))
    (console or Console()).print(table)


def _cell(measure: dict[str, Any] | None) -> str:
    """A mean or rate with its interval."""
    if measure is None:
        return "not reported"
    form = "{:.3f}" if "rate" in measure else "{:.4g}"
    value = form.format(measure.get("rate", measure.get("mean")))
    if measure["ci95"] is None:
        return value
    low, high = map(form.format, measure["ci95"])
    return f"{value} [{low}, {high}]"
