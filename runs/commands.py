"""The commands of `clew`, with their arguments; settings and their help come from the config."""

import difflib
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from envs.loading import absolute
from runs import check_env as check_env_module
from runs import collect as collect_module
from runs import doctor as doctor_module
from runs import folder, session, standings
from runs import hub as hub_module
from runs.baselines import session as baseline_session
from runs.baselines.policy import BaselineConfig
from runs.bench import context, patterns
from runs.collect import CollectArguments
from runs.config import Config
from runs.dataset import settled
from runs.device import check_threads, use_threads
from runs.evaluation import compare as compare_module
from runs.evaluation.evaluate import evaluate as evaluate_subject
from runs.evaluation.evaluate import show_sheets
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Budget, Subject, check_seed
from runs.evaluation.suites import ALL, check_suites, find_suites, left_out
from runs.parsing import parse
from runs.recipes import RECIPES, find_recipe
from worldmodel.pattern import PATTERNS


@dataclass(frozen=True)
class TrainArguments:
    """Train an agent: by a recipe, in any environment (--env), or on from where a run stopped."""

    recipe: Annotated[Positional[str], arg(metavar="[RECIPE]", help_behavior_hint="")] = ""
    """One of `clew recipes`; it gives the settings their defaults."""
    resume: Annotated[str, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Folder of a run to go on with. It keeps its settings, except for --steps."""
    name: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: RECIPE-DATE-sSEED)")] = (
        ""
    )
    """Name of the run."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("outputs")
    """Where runs are kept; this one in DIR/NAME."""
    settings: Annotated[Config, arg(name="")] = field(default_factory=Config)


@dataclass(frozen=True)
class BaselineArguments:
    """Train Stable-Baselines3's PPO or sb3-contrib's RecurrentPPO, and evaluate it as our own."""

    kind: Positional[baseline_session.Kind]
    """ppo (sees stacked frames), recurrent-ppo (LSTM), random or oracle (these learn nothing)."""
    env: str
    """An id of Gymnasium's, module:Id, module:Class, or path/to/file.py:Class."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments, as name=value."""
    wrappers: tuple[str, ...] = ()
    """Wrappers around it, innermost first, as module:Class."""
    steps: int = 1_000_000
    """Environment steps to train for."""
    num_envs: int = 16
    """Environments side by side."""
    seed: int = 0
    """Seeds everything."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    log_every: int = 10_000
    """Environment steps between two lines of metrics."""
    evaluation_episodes: int = 200
    """Episodes of the evaluation after training; 0 leaves it out."""
    name: Annotated[str, arg(metavar="NAME", help_behavior_hint="(default: KIND-DATE-sSEED)")] = ""
    """Name of the run."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("outputs")
    """Where runs are kept; this one in DIR/NAME."""
    ppo: BaselineConfig = field(default_factory=BaselineConfig)


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure a run's newest agent in new episodes, by suites, and write a report."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Folder of the run, or hub:NAME (clew hub lists them); where there are several, their seeds
    are summed up together."""
    suite: tuple[str, ...] = ("return",)
    """What to measure; `all` is whatever can be measured in this run."""
    checkpoint: Annotated[str, arg(metavar="newest|best|STEP")] = "newest"
    """Which agent: the newest, the one with the best score in training, or that of a step."""
    env: str = ""
    """Another environment than the run's own, with the same observations and actions."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Changes to the environment, as name=value, such as a longer corridor than in training."""
    episodes: int = Budget.episodes
    """Episodes of every player."""
    seed: int = Budget.seed
    """Which episodes; never those of training."""
    device: str = "auto"
    """Where to compute: cpu, cuda, or auto."""
    threads: int = 0
    """CPU threads of torch; 0: as many as the run was trained with."""
    max_steps: int = Budget.max_steps
    """Episodes are cut after so many steps, should the environment never end them."""
    json: bool = False
    """Print the reports as JSON; everything else goes to stderr."""

    def __post_init__(self) -> None:
        check_threads(self.threads)


@dataclass(frozen=True)
class CompareArguments:
    """Put evaluated runs side by side, and seeds of the same settings together."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN")]
    """Folders of runs."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("outputs/comparison")
    """Where the page goes; another number is added where that exists."""


@dataclass(frozen=True)
class ReportArguments:
    """Rebuild README's table of what is solved, and its curves, from the results that are kept."""

    what: Positional[Literal["results"]]
    """results: what is kept in runs/results/."""
    add: Annotated[tuple[Path, ...], arg(metavar="RUN")] = ()
    """Evaluated runs to keep there first."""
    results: Annotated[Path, arg(metavar="DIR")] = standings.RESULTS
    """Where results are kept."""
    readme: Annotated[Path, arg(metavar="FILE")] = Path("README.md")
    """What the table is written to."""


@dataclass(frozen=True)
class BenchContextArguments:
    """Measure what a long context costs on this machine, all backbones side by side."""

    out: Annotated[
        str, arg(metavar="DIR", help_behavior_hint="(default: outputs/bench-context-DATE)")
    ] = ""
    """Where the results go: context.json and context.png."""
    json: bool = False
    """Print the results as JSON; everything else goes to stderr."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's own choice."""
    patterns: tuple[str, ...] = tuple(PATTERNS)
    """Backbones to compare; lssvwm, the default one, is measured in any case."""
    quick: bool = False
    """Tiny sizes, only to see that everything runs."""

    def __post_init__(self) -> None:
        check_threads(self.threads)


@dataclass(frozen=True)
class BenchPatternsArguments:
    """Compare all named patterns of layers by what they remember of a maze that they watched."""

    out: Annotated[
        str, arg(metavar="DIR", help_behavior_hint="(default: outputs/bench-patterns-DATE)")
    ] = ""
    """Where everything goes; what is finished there already is kept."""
    plan: Annotated[patterns.Plan, arg(name="")] = field(default_factory=patterns.Plan)
    jobs: int = 1
    """Patterns that learn side by side, on one core each."""
    quick: bool = False
    """Tiny sizes, only to see that everything runs."""
    json: bool = False
    """Print the results as JSON; everything else goes to stderr."""

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ValueError(f"jobs = {self.jobs} must be at least 1.")


@dataclass(frozen=True)
class CheckEnvArguments:
    """Play an environment: how it is read, how fast it is, and what is wrong with it."""

    env: Annotated[Positional[str], arg(metavar="ID")]
    """An id of Gymnasium's, module:Id, module:Class, or path/to/file.py:Class."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments, as name=value."""
    wrappers: tuple[str, ...] = ()
    """Wrappers around it, innermost first, as module:Class."""
    steps: int = 1000
    """Steps to play, with random actions."""
    seed: int = 0
    """Of the episodes and of the actions."""
    json: bool = False
    """Print the report as JSON."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps} must be at least 1.")
        check_seed(self.seed)


@dataclass(frozen=True)
class RecipesArguments:
    """List the recipes."""


@dataclass(frozen=True)
class HubArguments:
    """List the reference agents that come with clew, or make a run's agent one of them."""

    keep: Annotated[str, arg(metavar="RUN", help_behavior_hint="")] = ""
    """A run whose newest agent is kept among them."""
    name: str = ""
    """What it is called there."""

    def __post_init__(self) -> None:
        if bool(self.keep) != bool(self.name):
            raise ValueError("--keep RUN and --name NAME go together.")


@dataclass(frozen=True)
class DoctorArguments:
    """What this machine offers, on one screen; or what is wrong in the dump of a run."""

    dump: Annotated[Positional[str], arg(metavar="[DUMP]", help_behavior_hint="")] = ""
    """The folder crash/ of a run that ended because its numbers were not finite, or that run."""


def train(arguments: list[str]) -> int:
    """`clew train`."""
    named = bool(arguments) and not arguments[0].startswith("-")
    with folder.refusing():
        recipe, given = find_recipe(arguments[0]) if named else None, _options(arguments)
        base = recipe.config if recipe else Config()
        if "--resume" in given:
            base = Config(prefill=0)  # the run has its own; any --steps will do here
        asked = parse(TrainArguments, "train", arguments, TrainArguments(settings=base))
        if "--resume" in given:
            _check_resume(asked, given)
        elif not named:
            _check_env(asked, given)
        settings = settled(asked.settings, given)
    if "--resume" in given:
        return session.resume(
            Path(asked.resume), asked.settings.steps if "--steps" in given else None
        )
    return session.start(settings, recipe.name if recipe else None, asked.out, asked.name)


def collect(arguments: list[str]) -> int:
    """`clew collect`."""
    asked = parse(CollectArguments, "collect", arguments)
    console = Console(stderr=asked.json, highlight=False)
    report = collect_module.collect(asked, console)
    collect_module.show(report, console)
    if asked.json:
        print(json.dumps(report, indent=1))
    return 0


def baseline(arguments: list[str]) -> int:
    """`clew baseline`."""
    asked = parse(BaselineArguments, "baseline", arguments)
    with folder.refusing():
        config = Config(
            env=absolute(asked.env),
            env_kwargs=asked.env_kwargs,
            wrappers=asked.wrappers,
            num_envs=asked.num_envs,
            steps=asked.steps,
            prefill=0,
            seed=asked.seed,
            threads=asked.threads,
            log_every=asked.log_every,
            evaluation_episodes=asked.evaluation_episodes,
        )
    baseline_session.run(asked.kind, config, asked.ppo, asked.out, asked.name)
    return 0


def evaluate(arguments: list[str]) -> int:
    """`clew evaluate`."""
    asked = parse(EvaluateArguments, "evaluate", arguments)
    console = Console(stderr=asked.json)
    with folder.refusing():
        budget = Budget(asked.episodes, asked.seed, asked.max_steps)
        subjects = [
            load_subject(run, asked.env, asked.env_kwargs, asked.device, asked.checkpoint)
            for run in _some(asked.runs)
        ]
        use_threads(asked.threads)
        suites = [find_suites(asked.suite, subject) for subject in subjects]
        for subject, chosen in zip(subjects, suites, strict=True):
            check_suites(subject, chosen)
            _tell_left_out(subject, asked.suite, console)
    reports = {
        subject.run: evaluate_subject(subject, chosen, budget, console)
        for subject, chosen in zip(subjects, suites, strict=True)
    }
    found: dict[str, Any] = {str(run): report for run, report in reports.items()}
    if len(subjects) > 1:
        show_sheets(compare_module.sheets(reports), console)
        found |= {"together": compare_module.as_json(reports)}
    if asked.json:
        print(json.dumps(found, indent=1))
    return 0


def _tell_left_out(subject: Subject, suites: tuple[str, ...], console: Console) -> None:
    if ALL in suites and (lacks := left_out(subject)):
        told = "; ".join(f"{name} ({why})" for name, why in lacks.items())
        console.print(f"{subject.run.name}, left out: {told}", soft_wrap=True, highlight=False)


def compare(arguments: list[str]) -> int:
    """`clew compare`."""
    asked = parse(CompareArguments, "compare", arguments)
    console = Console()
    with folder.refusing():
        found = compare_module.read(_some(asked.runs))
        out = folder.make(asked.out)
    show_sheets(compare_module.sheets(found), console)
    console.print(f"Written to {compare_module.write(found, out)}", soft_wrap=True)
    return 0


def _some(runs: tuple[Path, ...]) -> tuple[Path, ...]:
    if not runs:
        raise ValueError("Name a run's folder, or several: outputs/NAME.")
    each: dict[Path, Path] = {}
    for run in map(hub_module.local, runs):
        each.setdefault(run.resolve(), run)
    return tuple(run if run.name else known for known, run in each.items())


def check_env(arguments: list[str]) -> int:
    """`clew check-env`; 1 where something is wrong."""
    asked = parse(CheckEnvArguments, "check-env", arguments)
    console = Console(highlight=False, quiet=asked.json)
    # Told before it is played, for that may end in a hang or in the death of this process.
    on_read = partial(check_env_module.show_spaces, console=console, steps=asked.steps)
    with folder.refusing():
        report = check_env_module.check_env(
            asked.env, asked.env_kwargs, asked.wrappers, asked.steps, asked.seed, on_read
        )
    check_env_module.show_findings(report, console)
    if asked.json:
        print(json.dumps(report, indent=1))
    return int(bool(report["wrong"]))


def bench(arguments: list[str]) -> int:
    """`clew bench`: one of BENCHES."""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = (f"  clew bench {name:10} {about}" for name, (_, about) in BENCHES.items())
        print("usage: clew bench BENCHMARK [OPTIONS]", "", *lines, sep="\n")
        return 0 if arguments else 2
    if arguments[0] not in BENCHES:
        near = difflib.get_close_matches(arguments[0], BENCHES, cutoff=0.4) or list(BENCHES)
        raise folder.RefusalError(
            f"There is no benchmark {arguments[0]!r}. Nearest: {', '.join(near)}."
        )
    run, _ = BENCHES[arguments[0]]
    return run(arguments[1:])


def bench_context(arguments: list[str]) -> int:
    """`clew bench context`."""
    asked = parse(BenchContextArguments, "bench context", arguments)
    out = Path(asked.out) if asked.out else context.default_folder()
    with folder.refusing():
        scale = context.scale(asked.patterns, asked.quick)
        context.check_free(out)
    console = Console(stderr=asked.json)
    report = context.bench(scale, out, console, asked.threads)
    context.show(report, console)
    console.print(f"Written to {out / context.RESULT}", soft_wrap=True)
    if asked.json:
        print(json.dumps(report, indent=1))
    return 0


def bench_patterns(arguments: list[str]) -> int:
    """`clew bench patterns`."""
    with ExitStack() as held:
        with folder.refusing():
            asked = parse(BenchPatternsArguments, "bench patterns", arguments)
            out = Path(asked.out) if asked.out else patterns.default_folder()
            plan = patterns.tiny(asked.plan) if asked.quick else asked.plan
            patterns.check(plan)
            patterns.claim(plan, out)
            held.enter_context(folder.locked(out))
        console = Console(stderr=asked.json)
        report = patterns.bench(plan, out, asked.jobs, console)
    patterns.show(report, console)
    console.print(f"Written to {out / patterns.RESULT}", soft_wrap=True)
    if asked.json:
        print(json.dumps(report, indent=1))
    return 0


def report(arguments: list[str]) -> int:
    """`clew report`."""
    asked = parse(ReportArguments, "report", arguments)
    with folder.refusing():
        for run in asked.add:
            print(f"Kept in {standings.add(run, asked.results)}")
        standings.rebuild(asked.results, asked.readme)
    print(f"The table in {asked.readme} is that of {asked.results}")
    return 0


BENCHES: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "context": (bench_context, "what a long context costs: speed, memory, all backbones"),
    "patterns": (bench_patterns, "what all patterns of layers remember of a maze, compared"),
}


def recipes(arguments: list[str]) -> int:
    """`clew recipes`."""
    parse(RecipesArguments, "recipes", arguments)
    table = Table("recipe", "what for", "cost on two cores")
    for recipe in RECIPES.values():
        table.add_row(recipe.name, recipe.summary, recipe.cost)
    Console().print(table)
    Console().print("Train by one: clew train tmaze. Its settings: clew train tmaze --help")
    return 0


def hub(arguments: list[str]) -> int:
    """`clew hub`."""
    asked = parse(HubArguments, "hub", arguments)
    if asked.keep:
        with folder.refusing():
            print(f"Kept in {hub_module.keep(Path(asked.keep), asked.name)}")
        return 0
    hub_module.show(Console())
    return 0


def doctor(arguments: list[str]) -> int:
    """`clew doctor`."""
    asked = parse(DoctorArguments, "doctor", arguments)
    if not asked.dump:
        return doctor_module.doctor()
    with folder.refusing():
        return doctor_module.explain(Path(asked.dump))


def _options(arguments: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in arguments if word.startswith("--")}


def _check_resume(asked: TrainArguments, given: set[str]) -> None:
    others = sorted(given - {"--resume", "--steps"}) + [asked.recipe] * bool(asked.recipe)
    if others:
        raise ValueError(
            f"A resumed run keeps the settings it began with: {', '.join(others)} cannot be given "
            "with --resume; only --steps can."
        )


def _check_env(asked: TrainArguments, given: set[str]) -> None:
    if asked.recipe:
        raise ValueError(
            f"The recipe comes before the settings: clew train {asked.recipe} --some-setting ..."
        )
    if not given & {"--env", "--dataset"}:
        raise ValueError(
            "Say what to train: a recipe (clew train tmaze), an environment (clew train --env ID), "
            "a dataset (clew train --dataset ID) or a run to go on with (clew train --resume RUN). "
            f"Recipes: {', '.join(RECIPES)}."
        )
