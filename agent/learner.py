"""One update: learn the world model from replay, then the policy from dreams that start there.

Rows of a batch go on where their last window ended, so their carries are kept from update to
update. A loss, a gradient or a state that is not finite changes nothing and raises
`NonFiniteError`.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from agent.actor_critic import ActorCritic, BehaviourConfig
from agent.agent import Agent
from agent.imagination import branch, curious, imagine, unusual
from worldmodel.long_context import LongContextConfig, clean_prefix
from worldmodel.model import Learned, detach, records_at
from worldmodel.recall import Past
from worldmodel.types import Carry, Records, tree_leaves, tree_map, tree_where

# Equal, so that no step exceeds the learning rate (Cauchy-Schwarz; Orvieto and Gower 2025, arXiv
# 2505.21829). With 0.999 for the squares, the first rewards that a policy met, twenty times larger
# than what it had known, moved it by up to thirty times the learning rate, and broke it.
BETAS = (0.95, 0.95)

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class OptimiserConfig:
    """Step sizes, for model and behaviour alike Adam."""

    model_lr: float = 1e-3
    """Learning rate of the world model."""
    actor_lr: float = 3e-4
    """Learning rate of the policy."""
    critic_lr: float = 1e-3
    """Learning rate of the value."""
    clip: float = 10.0
    """Largest norm of the world model's gradient."""
    behaviour_clip: float = 10.0
    """Largest norm of the actor's and of the critic's gradient."""
    warmup: int = 100
    """Updates over which the learning rates rise from zero."""
    actor_delay: int = 100
    """Updates before the policy begins to learn: a model that knows nothing yet misleads it."""
    cooldown: float = 0.0
    """Share of the run, its end, over which the learning rates fall to zero."""
    precision: str = "fp32"
    """fp32, or bf16: learn under bfloat16 autocast, faster where the hardware multiplies in it.
    Weights, scans and what is carried stay in float32; so does acting."""

    def __post_init__(self) -> None:
        for name in ("model_lr", "actor_lr", "critic_lr", "clip", "behaviour_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"optimiser.{name} = {getattr(self, name)} must be positive.")
        for name in ("warmup", "actor_delay"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimiser.{name} = {getattr(self, name)} must not be negative.")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"optimiser.cooldown = {self.cooldown} must lie in [0, 1].")
        if self.precision not in PRECISIONS:
            valid = " or ".join(PRECISIONS)
            raise ValueError(f"optimiser.precision = {self.precision!r} must be {valid}.")


class NonFiniteError(RuntimeError):
    """Something was NaN or infinite; `where` names it. No parameter was changed."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} is not finite")
        self.where = where


class Learner(nn.Module):
    """World model, behaviour and their optimisers; everything that an update changes."""

    def __init__(
        self,
        agent: Agent,
        behaviour: BehaviourConfig,
        optimiser: OptimiserConfig,
        context: LongContextConfig,
        rows: int,
        model_only: bool = False,
    ) -> None:
        super().__init__()
        self.model_only = model_only
        self.model, self.optimiser_config, self.context = agent.model, optimiser, context
        width, tokens = agent.config.width, agent.model.sizes.tokens
        self.behaviour = ActorCritic(agent.actor, tokens, width, behaviour)
        compares = behaviour.compare and not model_only
        self.actions = agent.model.actions.all() if compares else None
        self.rates = {
            "model": optimiser.model_lr,
            "actor": optimiser.actor_lr,
            "critic": optimiser.critic_lr,
        }
        modules = (agent.model, agent.actor, self.behaviour.critic)
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr, betas=BETAS)
            for (name, lr), module in zip(self.rates.items(), modules, strict=True)
        }
        self.updates = 0
        self.carry, self.past = agent.model.initial(rows), agent.model.initial_past(rows)

    def update(
        self, records: Records, continues: Bool[Tensor, " B"], done: float = 0.0
    ) -> dict[str, float]:
        """Learn from a batch whose rows go on from the last one where `continues`.

        `done` is the share of the run that lies behind, for the learning rates' sake.

        Raises:
            NonFiniteError: where a loss, a gradient or a state is NaN or infinite.
        """
        carry, past = self._incoming(continues & self.context.carry)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        counts = clean_prefix(records.is_first, self.context.clean_prefix)
        stretches = _stretches(records, counts, self.context.stretch(counts.shape[1]))
        found = []
        for stretch, counted in stretches:
            carry, past, metrics = self._learn(stretch, counted, carry, past, len(stretches))
            found.append(metrics)
        self._set_rates(done)
        norms = self._step()
        self.behaviour.update_slow()
        self.carry, self.past, self.updates = carry, past, self.updates + 1
        means = {name: torch.stack([m[name] for m in found]).mean() for name in found[0]}
        return {name: float(value) for name, value in (means | norms).items()}

    def _incoming(self, continues: Bool[Tensor, " B"]) -> tuple[Carry, Past]:
        """What each row brings along."""
        rows = len(continues)
        empty = self.model.initial(rows), self.model.initial_past(rows)
        return tree_where(continues, (self.carry, self.past), empty)

    def _learn(self, records: Records, counts: Tensor, carry: Carry, past: Past, parts: int):
        """Add the gradients of one of so many stretches; what it leaves behind, and metrics."""
        bf16 = self.optimiser_config.precision == "bf16"
        # Without its cache: in older torch, weights cast under no_grad stay without gradient.
        with torch.autocast(counts.device.type, torch.bfloat16, bf16, cache_enabled=False):
            learned, losses, metrics = self._losses(records, counts, carry, past)
        for name, loss in losses.items():
            if not loss.isfinite():
                raise NonFiniteError(f"The loss of the {name}")
        largest = _largest(learned.carry)
        if not largest.isfinite():
            raise NonFiniteError("The state of the model")
        (torch.stack(list(losses.values())).sum() / parts).backward()
        metrics = metrics | losses | learned.losses | {"largest_state": largest}
        metrics = {name: value.detach() for name, value in metrics.items()}
        return detach(learned.carry), learned.past, metrics

    def _losses(self, records: Records, counts: Tensor, carry: Carry, past: Past):
        """What a stretch taught the model, the losses by what they train, and metrics."""
        every = None if self.model_only else self.behaviour.config.starts
        window = self.context.held(counts.shape[1])
        learned = self.model.loss(records, carry, past, every, window, counts)
        if self.model_only:
            return learned, {"model": learned.total}, {}
        losses, metrics = self._behaviour_losses(learned, records, counts)
        return learned, {"model": learned.total} | losses, metrics

    def _behaviour_losses(self, learned: Learned, records: Records, counts: Tensor):
        every = self.behaviour.config.starts
        start = tree_map(lambda a: a.detach().flatten(0, 1), learned.snapshots)
        goes_on = (~records.is_terminal[:, every - 1 :: every]).float().flatten()
        imagined = imagine(
            self.model, self.behaviour.dream_policy, start, goes_on, self.behaviour.config.horizon
        )
        branches = branch(self.model, start, self.actions) if self.actions is not None else None
        if weight := self.behaviour.config.curiosity:
            imagined, branches = curious(self.model, imagined, branches, weight)
        losses, metrics = self.behaviour.imagination_losses(imagined, branches)
        if weight := self.behaviour.config.replay_value:
            # With gradient: what the value depends on must be in the features (as in DreamerV3).
            features = learned.observed.features
            foreseen = learned.surprise[learned.surprise > 0]
            seen = records, unusual(learned.surprise, foreseen), counts
            replay_value = self.behaviour.replay_value_loss(features, *seen)
            losses["critic"] = losses["critic"] + weight * replay_value
            metrics["replay_value"] = replay_value
        return losses, metrics

    def _set_rates(self, done: float) -> None:
        config = self.optimiser_config
        cool = min(1.0, (1 - done) / config.cooldown) if config.cooldown else 1.0
        for name, optimiser in self.optimisers.items():
            updates = self.updates - (config.actor_delay if name == "actor" else 0)
            warm = min(1.0, (updates + 1) / max(1, config.warmup))
            for group in optimiser.param_groups:
                group["lr"] = max(0.0, min(warm, cool)) * self.rates[name]

    def _step(self) -> dict[str, Tensor]:
        """One step of all optimisers, or of none."""
        clips = {"model": self.optimiser_config.clip}
        norms = {}
        for name, optimiser in self.optimisers.items():
            parameters = optimiser.param_groups[0]["params"]
            clip = clips.get(name, self.optimiser_config.behaviour_clip)
            norms[f"{name}_gradient"] = nn.utils.clip_grad_norm_(parameters, clip)
        for name, norm in norms.items():
            if not norm.isfinite():
                raise NonFiniteError(f"The {name.replace('_', ' ')}")
        for optimiser in self.optimisers.values():
            optimiser.step()
        return norms


@torch.no_grad()
def _largest(carry: Carry) -> Tensor:
    """The largest absolute value of what is carried; NaN where there is one."""
    return torch.stack([leaf.float().abs().max() for leaf in tree_leaves(carry)]).max()


def _stretches(records: Records, counts: Tensor, frames: int) -> list[tuple[Records, Tensor]]:
    """The parts of a batch that gradients flow in."""
    starts = range(0, counts.shape[1], frames)
    return [(records_at(records, i, i + frames), counts[:, i : i + frames]) for i in starts]
