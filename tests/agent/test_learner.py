"""One update: what it changes, what it must not, and what stops it."""

import copy
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from agent.actor_critic import BehaviourConfig
from agent.agent import Agent
from agent.learner import BETAS, PRECISIONS, Learner, NonFiniteError, OptimiserConfig
from worldmodel.long_context import LongContextConfig
from worldmodel.model import ModelConfig
from worldmodel.types import Records, tree_leaves

SMALL = ModelConfig(layers=("scan", "mlp"), width=16, head=8, latents=2, classes=4)
ROWS, FRAMES = 3, 8


BEHAVIOUR = BehaviourConfig(horizon=3, starts=4)


def build(
    model_only: bool = False, behaviour: BehaviourConfig = BEHAVIOUR, **context: object
) -> Learner:
    torch.manual_seed(0)
    agent = Agent(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), SMALL)
    settings = LongContextConfig(**context)  # pyright: ignore[reportArgumentType]
    return Learner(agent, behaviour, OptimiserConfig(), settings, ROWS, model_only)


@pytest.fixture
def learner() -> Learner:
    return build()


def records(reward: float = 0.0) -> Records:
    first = torch.zeros(ROWS, FRAMES, dtype=torch.bool)
    first[:, 0] = True
    return Records(
        {"observation": torch.rand(ROWS, FRAMES, 3)},
        torch.randint(0, 2, (ROWS, FRAMES)),
        torch.full((ROWS, FRAMES), reward),
        first,
        torch.zeros(ROWS, FRAMES, dtype=torch.bool),
    )


def test_every_parameter_is_trained_by_one_optimiser(learner: Learner) -> None:
    """Fails where a part is forgotten, or stepped twice."""
    groups = [p for o in learner.optimisers.values() for g in o.param_groups for p in g["params"]]
    trainable = [p for p in learner.parameters() if p.requires_grad]
    assert len(groups) == len({id(p) for p in groups})
    assert {id(p) for p in groups} == {id(p) for p in trainable}


@pytest.mark.parametrize("settings", [{}, {"compare": True}, {"compare": True, "curiosity": 0.1}])
def test_an_update_changes_all_parts_and_keeps_the_carry(settings: dict) -> None:
    """Fails where a loss does not reach its part, or a carry drags its history along."""
    learner = build(behaviour=replace(BEHAVIOUR, **settings))
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(records(1.0), torch.zeros(ROWS, dtype=torch.bool))
    after = learner.state_dict()
    for part in ("model.backbone", "model.transition", "behaviour.critic", "behaviour.slow"):
        names = [name for name in after if name.startswith(part)]
        assert any(not torch.equal(before[name], after[name]) for name in names), part
    assert not any(leaf.requires_grad for leaf in tree_leaves(learner.carry))
    assert any(leaf.float().abs().sum() > 0 for leaf in tree_leaves(learner.carry))
    assert learner.updates == 1
    assert all(value == value for value in metrics.values())


def test_bfloat16_learns_the_same() -> None:
    """Fails where autocast changes the losses, is not used, or leaves bfloat16 behind."""
    found = {}
    for precision in PRECISIONS:
        learner = build(window=4)
        learner.optimiser_config = replace(OptimiserConfig(), precision=precision)
        data = records(1.0)
        torch.manual_seed(1)
        found[precision] = learner.update(data, torch.zeros(ROWS, dtype=torch.bool))
        leaves = [*tree_leaves(learner.carry), *learner.parameters()]
        assert not any(leaf.dtype == torch.bfloat16 for leaf in leaves)
    for name in ("model", "reconstruction", "critic"):
        assert found["bf16"][name] != found["fp32"][name]
        assert found["bf16"][name] == pytest.approx(found["fp32"][name], rel=0.05)


def test_a_row_that_jumped_starts_from_nothing(learner: Learner) -> None:
    """Fails where memory of one place leaks into another, or is lost where the row goes on."""
    learner.update(records(), torch.zeros(ROWS, dtype=torch.bool))
    incoming, past = learner._incoming(torch.tensor([True, False, True]))
    assert torch.equal((past.key > -torch.inf).any(1), torch.tensor([True, False, True]))
    pairs = zip(tree_leaves(incoming), tree_leaves(learner.carry), strict=True)
    for now, carried in pairs:
        assert not now[1].any()
        torch.testing.assert_close(now[[0, 2]], carried[[0, 2]])


def test_a_loss_that_is_not_finite_changes_no_parameter(learner: Learner) -> None:
    """Fails where one bad batch spoils the weights."""
    before = copy.deepcopy(learner.state_dict())
    bad = records()
    bad.observation["observation"][0, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        learner.update(bad, torch.zeros(ROWS, dtype=torch.bool))
    names = [name for name, _ in learner.named_parameters()]
    assert all(torch.equal(before[name], learner.state_dict()[name]) for name in names)
    assert learner.updates == 0


def test_a_state_that_is_not_finite_is_not_kept(
    learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where losses are finite and what is carried on is not."""
    real = learner.model.loss

    def exploding(*args, **kwargs):
        learned = real(*args, **kwargs)
        features = learned.carry.features.clone()
        features[1, 0, 0] = torch.inf
        return learned._replace(carry=learned.carry._replace(features=features))

    none = torch.zeros(ROWS, dtype=torch.bool)
    assert 0 < learner.update(records(), none)["largest_state"] < 1e3
    monkeypatch.setattr(learner.model, "loss", exploding)
    with pytest.raises(NonFiniteError, match="The state of the model is not finite"):
        learner.update(records(), none)
    assert learner.updates == 1
    assert all(leaf.float().isfinite().all() for leaf in tree_leaves(learner.carry))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("clip", -1.0), ("model_lr", 0.0), ("warmup", -1), ("cooldown", 2.0), ("precision", "fp16")],
)
def test_nonsense_is_refused_by_name(setting: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=f"optimiser.{setting}"):
        OptimiserConfig(**{setting: value})


def test_gradients_stop_where_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where stretches are ignored, or their state or losses are lost between them."""
    lengths, carried = [], []
    for gradient in (0, 4):
        learner = build(gradient=gradient)
        real = learner.model.loss

        def watched(records, carry, *args, real=real, **kwargs):
            lengths.append(records.reward.shape[1])
            carried.append(carry.features.abs().sum().item())
            assert not any(leaf.requires_grad for leaf in tree_leaves(carry))
            return real(records, carry, *args, **kwargs)

        monkeypatch.setattr(learner.model, "loss", watched)
        learner.update(records(1.0), torch.zeros(ROWS, dtype=torch.bool))
    assert lengths == [8, 4, 4]
    assert carried[0] == carried[1] == 0
    assert carried[2] > 0


@pytest.mark.parametrize("carry", [True, False])
def test_state_is_carried_from_batch_to_batch_where_asked(carry: bool) -> None:
    """Fails where `context.carry` does nothing."""
    learner = build(carry=carry)
    on = torch.ones(ROWS, dtype=torch.bool)
    learner.update(records(), on)
    seen = []
    real = learner.model.loss
    learner.model.loss = lambda r, c, *a, **k: seen.append(c) or real(r, c, *a, **k)
    learner.update(records(), on)
    assert bool(seen[0].features.any()) == carry


def test_model_only_leaves_the_behaviour_alone() -> None:
    """Fails where the policy is trained on nothing, or the model is not trained."""
    learner = build(model_only=True)
    before = copy.deepcopy(learner.state_dict())
    metrics = learner.update(records(1.0), torch.zeros(ROWS, dtype=torch.bool))
    changed = {
        name.split(".")[0]
        for name, value in learner.state_dict().items()
        if not torch.equal(before[name], value)
    }
    assert changed == {"model"}
    assert "imagined_return" not in metrics


def test_no_step_exceeds_the_learning_rate() -> None:
    """Fails where gradients that grow suddenly move a policy by many times its learning rate."""
    furthest = {}
    for betas in (BETAS, (0.9, 0.999)):
        parameter = torch.nn.Parameter(torch.zeros(50))
        optimiser = torch.optim.Adam([parameter], 1e-3, betas=betas)
        furthest[betas] = 0.0
        for step in range(300):
            parameter.grad = torch.randn(50) * 0.01 + (20.0 if step > 250 else 0.0)
            before = parameter.detach().clone()
            optimiser.step()
            moved = (parameter.detach() - before).abs().max().item()
            furthest[betas] = max(furthest[betas], moved)
    assert furthest[BETAS] <= 1.001e-3
    assert furthest[0.9, 0.999] > 3e-3
    assert all(o.defaults["betas"] == BETAS for o in build().optimisers.values())


def test_learning_rates_rise_and_the_policy_waits() -> None:
    """Fails where the first updates are made at the full rate, or the policy learns from a model
    that knows nothing."""
    learner = build()
    settings = replace(OptimiserConfig(), warmup=4, actor_delay=2)
    learner.optimiser_config, rates = settings, {"model": [], "actor": [], "critic": []}
    policy = copy.deepcopy(learner.behaviour.actor.state_dict())
    for update in range(8):
        learner.update(records(float(update)), torch.zeros(ROWS, dtype=torch.bool))
        for name, optimiser in learner.optimisers.items():
            rates[name].append(optimiser.param_groups[0]["lr"] / learner.rates[name])
        same = all(
            torch.equal(policy[k], v) for k, v in learner.behaviour.actor.state_dict().items()
        )
        assert same == (update < 2)
    assert rates["model"] == rates["critic"] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates["actor"] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


def test_learning_rates_fall_at_the_end() -> None:
    """Fails where the share of the run that is done does not count, or too early."""
    learner = build()
    learner.optimiser_config = replace(OptimiserConfig(), warmup=0, actor_delay=0, cooldown=0.5)
    found = []
    for done in (0.0, 0.5, 0.75, 1.0, 1.25):
        learner.update(records(), torch.zeros(ROWS, dtype=torch.bool), done)
        found.append(
            [o.param_groups[0]["lr"] / learner.rates[n] for n, o in learner.optimisers.items()]
        )
    assert found == [[share] * 3 for share in (1.0, 1.0, 0.5, 0.0, 0.0)]
