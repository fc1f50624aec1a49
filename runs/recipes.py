"""Recipes: settings that are known to work, by name. Typed values, so a typo cannot hide in one."""

import difflib
from dataclasses import dataclass, replace

from agent.actor_critic import BehaviourConfig
from agent.learner import OptimiserConfig
from agent.replay import ReplayConfig
from runs.config import Config
from worldmodel.long_context import LongContextConfig
from worldmodel.model import LossWeights, ModelConfig


@dataclass(frozen=True)
class Recipe:
    """A named preset: what it is for, what it costs, and all its settings."""

    name: str
    summary: str
    cost: str
    config: Config


DEBUG = Recipe(
    name="debug",
    summary="A T-Maze of 5 steps and a tiny model: does everything run?",
    cost="2,000 steps, half a minute",
    config=Config(
        env_kwargs={"length": 5},
        num_envs=4,
        steps=2_000,
        prefill=200,
        replay_ratio=8.0,
        log_every=200,
        checkpoint_every=1_000,
        evaluation_episodes=50,
        model=ModelConfig(
            layers=("scan", "attend:4", "mlp"), width=32, head=8, state=8, latents=4, classes=8
        ),
        behaviour=BehaviourConfig(horizon=6, starts=8, discount=0.97),
        replay=ReplayConfig(capacity=8_000, batch=8, context=32, stream=128),
    ),
)

TMAZE = Recipe(
    name="tmaze",
    summary="Carry one bit down a corridor of 100 steps, and turn where it said.",
    cost="400,000 steps, 8 minutes",
    config=Config(
        env_kwargs={"length": 100},
        num_envs=32,
        steps=400_000,
        prefill=4_000,
        replay_ratio=8.0,
        threads=1,  # two were no faster, and far slower beside any other work
        log_every=8_000,
        checkpoint_every=50_000,
        evaluation_episodes=200,
        model=ModelConfig(
            layers=("scan", "attend:10", "mlp", "scan", "mlp"),
            latents=4,
            classes=8,
            loss=LossWeights(reward=10.0, foresight=10.0),
        ),
        behaviour=BehaviourConfig(entropy=3e-3, dream_unimix=0.1),
        optimiser=OptimiserConfig(actor_lr=1e-3),
        replay=ReplayConfig(batch=8, context=256),
    ),
)

TMAZE_500 = Recipe(
    name="tmaze-500",
    summary="The same past 500 steps, in every episode from the first one on.",
    cost="1,000,000 steps, 20 minutes beside other work",
    config=replace(
        TMAZE.config,
        env_kwargs={"length": 500},
        steps=1_000_000,
        checkpoint_every=200_000,
        # A single categorical: several, drawn independently, mix frames that are one in 500.
        model=replace(TMAZE.config.model, latents=1, classes=16, recalls=64),
        # A wasted step costs 0.002, which drowns in the noise of longer returns.
        behaviour=replace(TMAZE.config.behaviour, entropy=6e-4, lam=0.5),
        optimiser=OptimiserConfig(actor_lr=3e-4),
        replay=ReplayConfig(capacity=400_000, batch=8, context=1024, stream=4096),
        context=LongContextConfig(curriculum=(256, 512)),
    ),
)

MEMORY_LENGTH_300 = Recipe(
    name="memory-length-300",
    summary="Say which bit was shown 300 steps ago; nothing to see or to do in between.",
    cost="1,000,000 steps, 40 minutes on one core beside other work",
    config=replace(
        TMAZE_500.config,
        env="clew/MemoryLength-v0",
        env_kwargs={"length": 300},
        # An answer in 300 steps: three times the updates of a T-Maze see as many.
        replay_ratio=24.0,
        # A single categorical shows the time and never the bit. And what is remembered for so long
        # moves the few codes of the time faster than anything is learned of them.
        model=replace(TMAZE_500.config.model, latents=8, classes=16, detached=True),
    ),
)

CARTPOLE = Recipe(
    name="cartpole",
    summary="CartPole-v1: vectors, no need of memory.",
    cost="15,000 steps, 3 minutes",
    config=Config(
        env="CartPole-v1",
        num_envs=8,
        steps=15_000,
        prefill=1_000,
        replay_ratio=64.0,
        log_every=1_000,
        checkpoint_every=5_000,
        behaviour=BehaviourConfig(horizon=15, starts=8),
        replay=ReplayConfig(context=64, stream=1_024),
    ),
)

PENDULUM = Recipe(
    name="pendulum",
    summary="Pendulum-v1: a bounded number to act by, no need of memory.",
    cost="25,000 steps, 8 minutes on one core beside other work",
    config=replace(CARTPOLE.config, env="Pendulum-v1", steps=25_000),
)

MINIGRID_EMPTY = Recipe(
    name="minigrid-empty",
    summary="MiniGrid-Empty-8x8-v0 from images: walk to the green square.",
    cost="20,000 steps, 7 minutes",
    config=Config(
        env="MiniGrid-Empty-8x8-v0",
        wrappers=(
            "minigrid.wrappers:RGBImgPartialObsWrapper",
            "minigrid.wrappers:ImgObsWrapper",
        ),
        num_envs=8,
        steps=20_000,
        prefill=1_000,
        replay_ratio=32.0,
        log_every=1_000,
        checkpoint_every=5_000,
        model=ModelConfig(grid=2),
        behaviour=BehaviourConfig(horizon=15),
        replay=ReplayConfig(capacity=50_000, batch=8, context=64, stream=1_024),
    ),
)

HALLWAY = Recipe(
    name="hallway",
    summary="The world model alone: carry a cue past 400 steps of distractors, in a dream.",
    cost="1,500,000 steps, 20 to 25 minutes",
    config=Config(
        env="clew/Hallway-v0",
        env_kwargs={"width": 400},
        num_envs=32,
        model_only=True,
        steps=1_500_000,
        prefill=8_000,
        replay_ratio=8.0,
        threads=1,
        log_every=50_000,
        checkpoint_every=250_000,
        model=ModelConfig(
            layers=("scan", "attend:10", "mlp", "scan", "mlp"),
            latents=4,
            recalls=64,
            loss=LossWeights(reward=10.0, foresight=10.0),
        ),
        replay=ReplayConfig(capacity=400_000, batch=8, context=512),
        context=LongContextConfig(window=128, gradient=256, curriculum=(128, 256)),
    ),
)

HALLWAY_LONG = Recipe(
    name="hallway-long",
    summary="The same past 10,000 steps, with gradients across 512 of them at most.",
    cost="1,500,000 steps, 30 to 35 minutes",
    config=replace(
        HALLWAY.config,
        # Drawn widths, each octave as much of the experience: short ones teach what a cue is.
        env_kwargs={"width": 10_000, "shortest": 20},
        prefill=64_000,
        optimiser=OptimiserConfig(cooldown=0.4),
        replay=ReplayConfig(capacity=1_600_000, batch=8, context=512, stream=16_384),
        context=LongContextConfig(window=128, gradient=512, curriculum=(128, 256)),
    ),
)

PRESETS = (
    DEBUG,
    TMAZE,
    TMAZE_500,
    MEMORY_LENGTH_300,
    CARTPOLE,
    PENDULUM,
    MINIGRID_EMPTY,
    HALLWAY,
    HALLWAY_LONG,
)
RECIPES = {recipe.name: recipe for recipe in PRESETS}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: where there is none; names the nearest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    near = difflib.get_close_matches(name, RECIPES, cutoff=0.4) or list(RECIPES)
    raise ValueError(
        f"There is no recipe {name!r}. Nearest: {', '.join(near)}. "
        "`clew recipes` lists them all; `clew train --env ID` takes any Gymnasium environment."
    )
