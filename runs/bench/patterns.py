"""The paper's comparison in miniature: `clew bench patterns`.

Every named pattern learns from the same films, in front of the same codec, with the same updates,
and about as many parameters; then the suite `recall` measures it (after Po et al. 2025, arXiv
2505.20171, table 1). What is finished is kept: the same command again goes on from there.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from agent import sealed
from agent.agent import Agent
from agent.replay import ReplayConfig
from envs import EnvStreams
from runs import folder, machine
from runs.bench.latent_training import (
    MOST_CLASSES,
    Films,
    Say,
    Stage,
    check_goes_on,
    film,
    learn_codec,
    learn_transition,
)
from runs.bench.patterns_view import picture, questions, table
from runs.config import Config
from runs.evaluation import recall
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Budget, Subject, check_seed, quiet
from runs.train import make_streams
from worldmodel.backbone import Backbone
from worldmodel.layers import Sizes
from worldmodel.model import ModelConfig
from worldmodel.pattern import read_pattern

LED = "clew/LedMaze-9x9-v0"
PATTERNS = ("lssvwm", "mamba", "mamba-local", "block-1", "window:64", "full:400", "gru")
PLAN, CODEC, FILMS = "plan.json", "codec.safetensors", "films.safetensors"
LEARNED = "learned.json"
RESULT, PICTURE = "patterns.json", "patterns.png"
STREAMS = 64
WIDER = 7  # widths by which the inner width of MLPs may grow


@dataclass(frozen=True)
class Plan:
    """What is learned, from how much, and how it is measured."""

    env: str = LED
    """Where films are made; clew/MemoryMaze-9x9-v0 tells actions instead of places."""
    patterns: tuple[str, ...] = PATTERNS
    """Backbones to compare."""
    seed: int = 0
    """Of films, batches and weights."""
    episodes: int = 1024
    """Films to learn from, each of another maze."""
    frames: int = 400
    """Frames of a film."""
    turning: bool = False
    """Whether every film turns back at some time and leads back, as those do that are measured."""
    codec_updates: int = 1500
    """Updates of the codec, on 128 frames each."""
    codec_passes: int = 1
    """Updates in which each of these frames counts; more of them learn longer from as many."""
    stages: tuple[Stage, ...] = (Stage(5000, 4, 32), Stage(1200, 2, 128), Stage(500, 1, 400))
    """Updates, rows and frames, from short to long."""
    lr: float = 3e-3
    """Learning rate of the transitions."""
    model: ModelConfig = field(default_factory=partial(ModelConfig, state=256, sharp=True))
    rows: int = 24
    """Films that are watched, to measure what is remembered of them."""

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ValueError(f"patterns is empty: name one or more, such as {' '.join(PATTERNS)}.")
        for name in self.patterns:
            read_pattern((name,), (self.model.grid, self.model.grid))
        for name in ("episodes", "frames", "codec_updates", "codec_passes", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1.")
        check_seed(self.seed)
        if self.rows > recall.MOST_ROWS:
            raise ValueError(f"rows = {self.rows} must be at most {recall.MOST_ROWS}.")
        if self.model.classes > MOST_CLASSES:
            raise ValueError(
                f"model.classes = {self.model.classes} must be at most {MOST_CLASSES}, as films "
                "are kept in bytes."
            )
        longest = max(stage.frames for stage in self.stages)
        if longest > self.frames:
            raise ValueError(
                f"frames = {self.frames}, the length of a film, must be at least {longest}, the "
                "longest that is learned from."
            )


def tiny(plan: Plan) -> Plan:
    """The same, only to see that everything runs."""
    model = ModelConfig(width=16, head=8, state=4, latents=2, classes=4)
    stages = (Stage(2, 2, 8), Stage(2, 1, 16))
    sizes = {"episodes": STREAMS, "frames": 16, "codec_updates": 3, "rows": 2}
    return replace(plan, model=model, stages=stages, **sizes)


def bench(plan: Plan, out: Path, jobs: int, console: Console) -> dict[str, Any]:
    """Learn and measure whatever is not finished in `out`; the report, which lies there too."""
    _prepare(plan, out, lambda text: _say(console, text))
    waiting = [name for name in dict.fromkeys(plan.patterns) if not _report(out, name).exists()]
    work = partial(learn_and_measure, plan, out)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for name, report in zip(waiting, pool.map(work, waiting), strict=True):
            _say(console, f"{name}: finished, {report['seconds']:,.0f} s")
    return collect(plan, out)


def check(plan: Plan) -> None:
    """See, before anything is learned, that films can be made there and memory be measured.

    Raises:
        ValueError: where it cannot, or episodes are shorter than films.
    """
    config = _config(plan, PATTERNS[0])
    with closing(make_streams(config, 1, plan.seed)) as streams:
        agent = _agent(plan, PATTERNS[0], streams)
        if lacks := recall.missing(Subject(Path(), agent, config)):
            raise ValueError(f"Memory cannot be measured in {plan.env}: {lacks}.")
        streams.reset()
        for _ in range(plan.frames - 1):
            check_goes_on(streams.step(streams.explore()), plan.frames)


def claim(plan: Plan, out: Path) -> None:
    """Make the folder, or see that it is this plan's; patterns may be added to it.

    Raises:
        ValueError: where it holds a comparison of another plan.
    """
    form = {key: value for key, value in asdict(plan).items() if key != "patterns"}
    path = out / PLAN
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(form)):
        raise ValueError(f"{out} holds a comparison with other settings: choose another --out DIR.")
    folder.write_json(path, form)


def _prepare(plan: Plan, out: Path, say: Say) -> None:
    """The codec and the films that all patterns share."""
    if (out / FILMS).exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    config = _config(plan, PATTERNS[0])
    with closing(make_streams(config, STREAMS, plan.seed)) as streams:
        agent = _agent(plan, PATTERNS[0], streams)
        if not (out / CODEC).exists():
            learn_codec(agent.model, streams, plan.codec_updates, plan.codec_passes, say)
            _save(_codec(agent), out / CODEC)
    agent.load_state_dict(load_file(out / CODEC), strict=False)
    # Streams of their own: the same films, whether or not it was interrupted after the codec.
    with closing(make_streams(config, STREAMS, plan.seed + 1)) as streams:
        turns = np.random.default_rng(plan.seed) if plan.turning else None
        films = film(agent.model, streams, plan.episodes, plan.frames, say, turns)
    _save({"latents": films.latents, "prev_action": films.prev_action}, out / FILMS)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a file whole, or not at all."""
    partial_file = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial_file)
    partial_file.replace(path)


def learn_and_measure(plan: Plan, out: Path, name: str) -> dict[str, Any]:
    """One pattern, from nothing or from what it has learned already, to its report."""
    run = out / _file(name)
    if not (run / LEARNED).exists():
        learn(plan, out, name)
    subject = load_subject(run, device="cpu")
    found = recall.measure_recall(subject, Budget(plan.rows, plan.seed), quiet)
    report = json.loads((run / LEARNED).read_text()) | found
    folder.write_json(_report(out, name), report)
    return report


def learn(plan: Plan, out: Path, name: str) -> None:
    """One pattern's training, in a folder that `clew evaluate` can read."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    run, config = out / _file(name), _config(plan, name)
    streams = make_streams(config, 1, plan.seed)
    agent = _agent(plan, name, streams)
    streams.close()
    agent.load_state_dict(load_file(out / CODEC), strict=False)
    unfinished = out / f"{_file(name)}.unfinished"
    with (out / f"{_file(name)}.log").open("a") as log:
        films, say = Films(**load_file(out / FILMS)), partial(_log, log)
        how = plan.stages, plan.lr, plan.seed, say, unfinished
        curve = learn_transition(agent.model, films, *how)
    _keep(run, agent, config)
    report = {"pattern": name, "parameters": _parameters(agent), "curve": curve}
    folder.write_json(run / LEARNED, report | {"seconds": curve[-1]["seconds"]})
    unfinished.unlink(missing_ok=True)


def _config(plan: Plan, name: str) -> Config:
    frames = sum(stage.updates * stage.rows * stage.frames for stage in plan.stages)
    replay = ReplayConfig(context=plan.frames, stream=plan.frames)
    return Config(
        env=plan.env,
        model_only=True,
        steps=frames,
        prefill=0,
        seed=plan.seed,
        threads=1,
        model=sized(plan.model, name),
        replay=replay,
    )


def _agent(plan: Plan, name: str, streams: EnvStreams) -> Agent:
    spaces = streams.observation_space, streams.action_space
    return Agent(*spaces, sized(plan.model, name))


def sized(model: ModelConfig, name: str) -> ModelConfig:
    """A pattern with about as many parameters as the first has, by the inner width of its MLPs."""
    wanted = backbone_size(replace(model, layers=(PATTERNS[0],)))
    sizes = [
        replace(model, layers=(name,), expand=n) for n in range(model.expand, model.expand + WIDER)
    ]
    return min(sizes, key=lambda one: abs(backbone_size(one) - wanted))


def backbone_size(model: ModelConfig) -> int:
    """Parameters of a backbone."""
    grid = (model.grid, model.grid)
    sizes = Sizes(grid, model.width, model.head, model.state, model.expand)
    with torch.device("meta"):
        return sum(p.numel() for p in Backbone(sizes, model.layers).parameters())


def _codec(agent: Agent) -> dict[str, Tensor]:
    """The weights that patterns share, by their names in an agent."""
    shared = {id(p) for p in agent.model.codec_parameters()}
    named = agent.named_parameters()
    return {name: p.detach().contiguous() for name, p in named if id(p) in shared}


def _parameters(agent: Agent) -> dict[str, int]:
    parts = {"model": agent.model, "backbone": agent.model.backbone}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def _keep(run: Path, agent: Agent, config: Config) -> None:
    """A run's folder, which `clew evaluate` can read."""
    folder.write_config(run, config, None, "torch")
    path = run / "checkpoints" / f"step-{config.steps:010d}"
    agent.save(path)
    sealed.seal(path)


def collect(plan: Plan, out: Path) -> dict[str, Any]:
    """What is there of all patterns, with the paper's questions answered; also as a picture."""
    paths = [_report(out, name) for name in dict.fromkeys((*PATTERNS, *plan.patterns))]
    reports = [json.loads(path.read_text()) for path in paths if path.exists()]
    found = {report.pop("pattern"): report for report in reports}
    report = {"plan": asdict(plan), "machine": machine.describe(), "patterns": found}
    report["questions"] = questions(found)
    folder.write_json(out / RESULT, report)
    picture(report).savefig(out / PICTURE, dpi=110)
    return report


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report."""
    console.print(table(report))
    for question in report["questions"]:
        value = "not measured" if question["value"] is None else f"{question['value']:+.2f} dB"
        console.print(f"{question['what']}: {value} (expected at least {question['least']:+.1f})")


def default_folder() -> Path:
    """Where a comparison goes that is not told where to go."""
    return Path("outputs") / f"bench-patterns-{datetime.now():%Y%m%d-%H%M%S}"


def _report(out: Path, name: str) -> Path:
    return out / f"{_file(name)}.json"


def _file(name: str) -> str:
    return name.replace(":", "-")


def _say(console: Console, text: str) -> None:
    console.print(f"{datetime.now():%H:%M:%S} {text}", highlight=False, soft_wrap=True)


def _log(log: TextIO, text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", file=log, flush=True)
