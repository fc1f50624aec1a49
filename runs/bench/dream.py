"""How good the pictures of a dream are: `clew bench dream RUN`.

The model sees so many frames of new episodes, then goes on by itself, told only the actions that
were really taken. Its frames are compared with the true ones by their distance from the last frame
that it saw. Beside it stand the same dream with memory off, and the last seen frame kept standing:
what is no better than that, a model need not dream.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent.agent import Agent
from runs import folder
from runs.config import Config
from runs.evaluation.play import evaluation_seed
from runs.evaluation.subject import load_run
from runs.train import make_streams
from worldmodel.codec import ImageCodec
from worldmodel.dream import dream, frame_quality
from worldmodel.types import Carry

BEST = 99.0  # dB; a perfect frame has infinitely many, which no mean and no JSON can take
WAYS = {
    "dream": "dreamed",
    "memory_off": "dreamed with memory off",
    "still": "the last seen frame, kept",
}


class Episodes(NamedTuple):
    """Records of N environments side by side, the actions in them, and where episodes begin."""

    frames: Tensor
    prev_action: Tensor
    is_first: Bool[Tensor, "N T"]


def measure_run(
    run: Path, rows: int = 16, context: int = 100, frames: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Measure a run's newest model; the report, which is also evaluation/dream.json.

    Raises:
        RefusalError: where the folder is not a run, or its observations are not one picture.
    """
    with folder.refusing():
        agent, config = load_run(run, "cpu")
        report = measure(agent, config, rows, context, frames, seed)
    folder.write_json(run / "evaluation" / "dream.json", report)
    return report


def measure(
    agent: Agent, config: Config, rows: int, context: int, frames: int, seed: int
) -> dict[str, Any]:
    """PSNR (dB) and SSIM by the distance from the last seen frame, in three ways.

    Raises:
        ValueError: where the observation is not a single picture.
    """
    codec = agent.model.codec
    if codec.names != codec.images:
        raise ValueError(
            f"{config.env} is not observed by one picture alone (but by {codec.shapes}), "
            "so there are no pictures to compare."
        )
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(seed)
        episodes = _play(agent, config, rows, context + frames, seed)
        found = _compare(agent, episodes, context)
    about = {"env": config.env, "rows": rows, "context": context, "frames": frames, "seed": seed}
    return about | found


def _play(agent: Agent, config: Config, rows: int, length: int, seed: int) -> Episodes:
    """New episodes, acted in as in training."""
    streams = make_streams(config, rows, evaluation_seed(seed))
    try:
        record, state, kept = streams.reset(), agent.initial(rows), []
        for _ in range(length):
            before, is_first = state.prev_action, torch.as_tensor(record.is_first)
            observation = agent.to_tensors(record.observation)
            kept.append((*observation.values(), before, is_first))
            action, state = agent.act(observation, state, is_first)
            if config.model_only:
                action = torch.as_tensor(streams.explore())
                state = state._replace(prev_action=action)
            record = streams.step(np.asarray(action))
    finally:
        streams.close()
    return Episodes(*(torch.stack(part, 1) for part in zip(*kept, strict=True)))


def _compare(agent: Agent, episodes: Episodes, context: int) -> dict[str, Any]:
    """Quality at every distance, counting a row up to the end of its episode."""
    model = agent.model
    name, seen = model.codec.names[0], slice(0, context)
    observation = {name: episodes.frames[:, seen]}
    known = episodes.prev_action[:, seen], episodes.is_first[:, seen]
    _, carry, _ = model.observe(observation, *known, model.initial(len(episodes.frames)))
    truth, ends = episodes.frames[:, context:], episodes.is_first[:, context:].cummax(1).values
    still = episodes.frames[:, context - 1 : context].expand_as(truth)
    ways = {
        "dream": _frames(agent, carry, episodes, context, False),
        "memory_off": _frames(agent, carry, episodes, context, True),
        "still": still,
    }
    (part,) = model.codec.parts
    assert isinstance(part, ImageCodec)
    return {way: _quality(truth, pictures, ~ends, part.range) for way, pictures in ways.items()}


def _frames(
    agent: Agent, carry: Carry, episodes: Episodes, context: int, forget: bool
) -> Float[Tensor, "N T ..."]:
    """Dreamed pictures under the actions that were taken.

    With memory off the first of them, too, is dreamed from the last seen frame alone.
    """
    if forget:
        last = slice(context - 1, context)
        observation = {agent.model.codec.names[0]: episodes.frames[:, last]}
        action, first = episodes.prev_action[:, last], torch.ones_like(episodes.is_first[:, last])
        _, carry, _ = agent.model.observe(observation, action, first, carry)
    actions = episodes.prev_action[:, context:].unbind(1)
    dreamed = dream(agent.model, carry, actions, forget=forget)
    name = agent.model.codec.names[0]
    return torch.stack([agent.model.decode(step.latents)[name] for step in dreamed], 1)


def _quality(
    truth: Tensor, pictures: Tensor, counts: Bool[Tensor, "N T"], scale: float = 255.0
) -> dict[str, Any]:
    """Means over the rows that count, at each distance and over all."""
    flat = frame_quality(truth.flatten(0, 1).float(), pictures.flatten(0, 1).float(), scale)
    report: dict[str, Any] = {}
    for name, values in flat.items():
        values = values.view(counts.shape).clamp(max=BEST) * counts
        pairs = zip(values.sum(0).tolist(), counts.sum(0).tolist(), strict=True)
        report[name] = float(values.sum() / counts.sum().clamp(min=1))
        report[f"{name}_by_distance"] = [total / rows if rows else None for total, rows in pairs]
    return report | {"rows_by_distance": counts.sum(0).tolist()}


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report as a table."""
    title = f"{report['env']}: {report['frames']} frames after {report['context']} seen"
    table = Table("frames", "PSNR (dB)", "SSIM", "PSNR of the last tenth", title=title)
    for way, what in WAYS.items():
        found = report[way]
        reached = [value for value in found["psnr_by_distance"] if value is not None]
        last = reached[-max(1, len(reached) // 10) :]
        mean = f"{sum(last) / len(last):.2f}" if last else "no row got there"
        table.add_row(what, f"{found['psnr']:.2f}", f"{found['ssim']:.3f}", mean)
    console.print(table)
