"""The world model's verbs: observe, imagine_step, decode and loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from worldmodel import latents as latent
from worldmodel.model import LossWeights, ModelConfig, WorldModel, detach
from worldmodel.types import Records, tree_leaves, tree_map

ROWS, FRAMES = 3, 13
LOSSES = (
    "reconstruction",
    "reward",
    "continuation",
    "foresight",
    "dynamics",
    "representation",
    "recall",
)
VECTOR = spaces.Box(-1.0, 1.0, (4,))
MIXED = spaces.Dict(
    {"camera": spaces.Box(0, 255, (8, 8, 3), np.uint8), "goal": spaces.Discrete(3, start=1)}
)
SMALL = ModelConfig(width=8, head=4, state=4, grid=2, latents=3, classes=5)
CASES = [
    (VECTOR, spaces.Discrete(3, start=2), ("scan", "attend:4", "mlp", "scan")),
    (MIXED, spaces.Box(-2.0, 2.0, (2,)), ("scan", "attend:3", "mlp", "scan:1x2", "scan:1x1")),
]
cases = pytest.mark.parametrize(("observation", "action", "layers"), CASES, ids=["vector", "mixed"])


def make(observation, action, layers=SMALL.layers, **settings) -> WorldModel:
    model = WorldModel(observation, action, replace(SMALL, layers=layers, **settings))
    for parameter in model.parameters():  # away from every neutral start
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def sample(space, *batch: int) -> Tensor:
    space.seed(int(torch.randint(1000, ())))
    flat = np.stack([space.sample() for _ in range(int(np.prod(batch)))])
    return torch.as_tensor(flat.reshape((*batch, *flat.shape[1:])))


def records(model: WorldModel, observation, action, frames: int = FRAMES) -> Records:
    """Random records with episode starts at random places."""
    leaves = observation.spaces if isinstance(observation, spaces.Dict) else None
    parts = leaves or {model.codec.names[0]: observation}
    return Records(
        {name: sample(space, ROWS, frames) for name, space in parts.items()},
        sample(action, ROWS, frames),
        torch.randn(ROWS, frames),
        torch.rand(ROWS, frames) < 0.2,
        torch.rand(ROWS, frames) < 0.1,
    )


def cut(data: Records, start: int, stop: int) -> Records:
    seen = {name: a[:, start:stop] for name, a in data.observation.items()}
    return Records(seen, *(a[:, start:stop] for a in data[1:]))


def observe(model: WorldModel, data: Records, carry, every: int | None = None):
    inputs = (data.observation, data.prev_action, data.is_first)
    return model.observe(*inputs, carry, every, deterministic=True)


def gradients(model: WorldModel, out: list[Tensor], weights: list[Tensor]) -> tuple[Tensor, ...]:
    loss = torch.stack([(a * w).sum() for a, w in zip(out, weights, strict=True)]).sum()
    parameters = list(model.parameters())
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


@cases
def test_gradient_flows_through_the_carried_features(observation, action, layers) -> None:
    """Fails where a dream, or the next window's expectation, cannot train what it started from."""
    model = make(observation, action, layers)
    _, carry, _ = observe(model, records(model, observation, action), model.initial(ROWS))
    prior = model.transition(carry.features, model.actions.encode(sample(action, ROWS)))
    reached = torch.autograd.grad(prior.square().sum(), model.from_latents.weight)[0]
    assert reached.any()


@cases
@pytest.mark.parametrize("windows", [[1] * FRAMES, [5, 1, 7], [2] * 6 + [1]], ids=str)
def test_windows_equal_the_whole(observation, action, layers, windows, agree) -> None:
    """Fails where acting frame by frame knows something else than training on windows."""
    model = make(observation, action, layers)
    data = records(model, observation, action)
    whole, after, _ = observe(model, data, model.initial(ROWS))
    carry, parts, start = model.initial(ROWS), [], 0
    for window in windows:
        part, carry, _ = observe(model, cut(data, start, start + window), carry)
        parts.append(part)
        start += window
    for i, expected in enumerate(whole):
        agree(torch.cat([part[i] for part in parts], 1), expected, 1e-4)
    for a, e in zip(tree_leaves(carry), tree_leaves(after), strict=True):
        agree(a.float(), e.float(), 1e-4)
    features = torch.cat([part.features for part in parts], 1)
    ends = [[a for a in tree_leaves(c) if a.is_floating_point()] for c in (carry, after)]
    weights = [torch.randn_like(a) for a in (features, *ends[0])]
    expected = gradients(model, [whole.features, *ends[1]], weights)
    actual = gradients(model, [features, *ends[0]], weights)
    for a, e in zip(actual, expected, strict=True):
        agree(a, e, 1e-3)


@cases
@pytest.mark.parametrize("every", [1, 4])
def test_snapshots_are_the_carries_along_the_way(
    observation, action, layers, every: int, agree
) -> None:
    """Fails where imagination starts from features and states of different times."""
    model = make(observation, action, layers)
    data = records(model, observation, action)
    with torch.no_grad():
        _, _, snapshots = observe(model, data, model.initial(ROWS), every)
        for i in range(FRAMES // every):
            _, expected, _ = observe(model, cut(data, 0, (i + 1) * every), model.initial(ROWS))
            actual = tree_map(lambda a, i=i: a[:, i], snapshots)
            for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
                agree(a.float(), e.float(), 1e-4)


class Foreseen(nn.Module):
    """A transition that knows what will be observed, and notes what it was asked."""

    def __init__(self, posterior: Tensor) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        self.asked = features, action
        return self.posterior


@cases
def test_imagining_what_comes_equals_observing_it(observation, action, layers, agree) -> None:
    """Fails where the dream takes another path through the model than the real record does."""
    model = make(observation, action, layers)
    data = records(model, observation, action)
    data.is_first[:, -1] = False
    with torch.no_grad():
        _, before, _ = observe(model, cut(data, 0, FRAMES - 1), model.initial(ROWS))
        observed, after, _ = observe(model, cut(data, FRAMES - 1, FRAMES), before)
        taken = model.actions.encode(data.prev_action[:, -1])
        model.transition = Foreseen(observed.posterior[:, 0])
        latents, dreamt = model.imagine_step(before, taken, deterministic=True)
    assert torch.equal(model.transition.asked[0], before.features)
    assert torch.equal(model.transition.asked[1], taken)
    agree(latents, observed.latents[:, 0], 1e-6)
    agree(dreamt.features, observed.features[:, 0], 1e-5)
    for a, e in zip(tree_leaves(dreamt), tree_leaves(after), strict=True):
        agree(a.float(), e.float(), 1e-5)
    outcome = model.outcome(dreamt.features)
    agree(outcome.reward, model.two_hot.mean(model.reward(model.pool(dreamt.features))), 1e-5)
    assert ((outcome.continuation >= 0) & (outcome.continuation <= 1)).all()


@cases
def test_suspense_is_the_entropy_of_what_is_foretold(observation, action, layers) -> None:
    """Fails where something is expected to surprise that is certain, or the share of unimix is."""
    model = make(observation, action, layers)
    shape = (ROWS, model.sizes.tokens, SMALL.latents, SMALL.classes)
    features, taken = torch.randn(*shape[:2], SMALL.width), torch.randn(ROWS, model.actions.size)
    certain = torch.zeros(shape)
    certain[..., 0] = 50.0
    even = certain.clone()
    even[..., 1] = 50.0  # two that are as likely
    for logits, nats in ((certain, 0.0), (even, math.log(2))):
        model.transition = Foreseen(latent.unimix(logits))
        expected = torch.full((ROWS,), nats * shape[1] * shape[2])
        torch.testing.assert_close(model.suspense(features, taken), expected, atol=1e-3, rtol=1e-4)


@cases
def test_imagination_follows_the_transition(observation, action, layers, agree) -> None:
    """Fails where imagined latents are not the transition's, or the action does not matter."""
    model = make(observation, action, layers)
    data = records(model, observation, action)
    with torch.no_grad():
        _, carry, _ = observe(model, data, model.initial(ROWS))
        vectors = model.actions.encode(sample(action, 2, ROWS))
        vectors[1] = vectors[0].roll(1, -1)
        latents, first = model.imagine_step(carry, vectors[0], deterministic=True)
        _, other = model.imagine_step(carry, vectors[1], deterministic=True)
        agree(latents, latent.mode(model.transition(carry.features, vectors[0])), 1e-6)
    assert (first.features - other.features).abs().max() > 1e-3
    assert [part.shape for part in model.outcome(first.features)] == [(ROWS,), (ROWS,)]


@cases
def test_decoding_gives_observations(observation, action, layers) -> None:
    """Fails where a dream cannot be looked at in the units of the observation space."""
    model = make(observation, action, layers)
    data = records(model, observation, action, 2)
    observed, _, _ = observe(model, data, model.initial(ROWS))
    decoded = model.decode(observed.latents.flatten(0, 1))
    expected = {name: (ROWS * 2, *a.shape[2:]) for name, a in data.observation.items()}
    assert {name: tuple(a.shape) for name, a in decoded.items()} == expected
    if observation is MIXED:
        assert decoded["camera"].min() >= 0
        assert decoded["camera"].max() <= 255
        assert ((decoded["goal"] >= 1) & (decoded["goal"] <= 3)).all()


def test_every_token_is_drawn_for_its_place() -> None:
    """Fails where equal latents have to look alike wherever they lie, or the codec's width does
    not stand apart from that of the memory."""
    model = make(MIXED, spaces.Discrete(3), codec=12)
    shape = (1, model.sizes.tokens, SMALL.latents, SMALL.classes)
    picture = model.decode(torch.ones(shape) / SMALL.classes)["camera"][0]
    corners = [picture[:4, :4], picture[:4, 4:], picture[4:, :4], picture[4:, 4:]]
    assert all((one - corners[0]).abs().max() > 1 for one in corners[1:])
    assert {p.shape[-1] for p in (model.frame_place, model.place)} == {12, SMALL.width}


@cases
def test_action_that_led_to_a_first_record_is_ignored(observation, action, layers) -> None:
    """Fails where the last action of one episode is seen by the next one."""
    model = make(observation, action, layers)
    data = records(model, observation, action)
    data.is_first[:, 4] = True
    other = data._replace(prev_action=data.prev_action.clone())
    other.prev_action[:, 4] = data.prev_action[:, 4].roll(1, 0)
    other.prev_action[:, 0] = torch.where(
        data.is_first[:, 0].view(-1, *[1] * (data.prev_action.dim() - 2)),
        other.prev_action[:, 4],
        data.prev_action[:, 0],
    )
    with torch.no_grad():
        a, _, _ = observe(model, data, model.initial(ROWS))
        b, _, _ = observe(model, other, model.initial(ROWS))
    assert torch.equal(a.features, b.features)


def test_losses_are_the_weights() -> None:
    """Fails where a loss has no weight or a weight has no loss, or the total is another sum."""
    weights = LossWeights(0.5, 2.0, 3.0, 1.2, 0.7, 0.2, 1.5)
    model = make(VECTOR, spaces.Discrete(3), loss=weights)
    learned = model.loss(records(model, VECTOR, spaces.Discrete(3)), model.initial(ROWS), every=4)
    assert set(learned.losses) == set(LOSSES)
    expected = sum(getattr(weights, name) * value for name, value in learned.losses.items())
    torch.testing.assert_close(learned.total, torch.as_tensor(expected))
    assert all(value.isfinite() and value > 0 for value in learned.losses.values())
    assert learned.snapshots.features.shape == (ROWS, FRAMES // 4, 1, 8)


HEADS = {
    "reward": "reward",
    "foresight": "foresight",
    "continuation": "continuation",
    "recall": "recall",
}


@pytest.mark.parametrize("name", LOSSES)
def test_weight_zero_switches_a_loss_off(name: str) -> None:
    """Fails where a loss still trains something though its weight is 0."""
    weights = replace(LossWeights(), **{name: 0.0})
    model = make(VECTOR, spaces.Discrete(3), loss=weights, free_nats=0.0)
    data = records(model, VECTOR, spaces.Discrete(3))
    learned = model.loss(data, model.initial(ROWS))
    others = sum(getattr(weights, k) * value for k, value in learned.losses.items() if k != name)
    torch.testing.assert_close(learned.total, torch.as_tensor(others))
    learned.total.backward()
    owned = {
        "reconstruction": model.to_frame,
        "dynamics": model.transition,
        **{loss: getattr(model, head) for loss, head in HEADS.items()},
    }
    for loss, module in owned.items():
        trained = any(p.grad is not None and p.grad.any() for p in module.parameters())
        assert trained == (loss != name), loss
    assert ("recall" in learned.losses) == (name != "recall")


@cases
def test_losses_of_windows_average_to_that_of_the_whole(
    observation, action, layers, monkeypatch, agree
) -> None:
    """Fails where the expectation of a window's first record ignores the carry."""
    monkeypatch.setattr("worldmodel.model.latent.sample", latent.mode)
    # Weights average 1 over all that is given at once, so they know its borders.
    monkeypatch.setattr("worldmodel.heads.TwoHot.doubt", lambda self, a: torch.ones(a.shape[:-1]))
    monkeypatch.setattr(
        "worldmodel.model.frame_share", lambda s, f: torch.full_like(s, 1 / s.shape[1])
    )
    off = replace(LossWeights(), recall=0.0)
    model = make(observation, action, layers, loss=off, free_nats=0.0)
    data = records(model, observation, action, 12)
    whole = model.loss(data, model.initial(ROWS))
    carry, parts = model.initial(ROWS), []
    for start in range(0, 12, 3):
        learned = model.loss(cut(data, start, start + 3), carry)
        carry = detach(learned.carry)
        parts.append(learned.losses)
    for name, expected in whole.losses.items():
        if name != "foresight":  # its weights leave out what nothing foresees
            agree(torch.stack([losses[name] for losses in parts]).mean(), expected, 1e-4)
    assert not any(leaf.requires_grad for leaf in tree_leaves(carry))


def test_nothing_predicts_a_first_record() -> None:
    """Fails where the model is blamed for not foreseeing the next episode."""
    model = make(VECTOR, spaces.Discrete(3), free_nats=0.0)
    data = records(model, VECTOR, spaces.Discrete(3))
    data.is_first[:] = True
    losses = model.loss(data, model.initial(ROWS)).losses
    assert losses["dynamics"] == losses["representation"] == losses["recall"] == 0
    data.is_first[:, 3] = False
    assert model.loss(data, model.initial(ROWS)).losses["dynamics"] > 0


def test_divergences_pull_one_side_each() -> None:
    """Fails where the two halves of the KL reach the wrong network."""
    model = make(VECTOR, spaces.Discrete(3), free_nats=0.0)
    posterior = latent.unimix(torch.randn(2, 4, 1, 3, 5, requires_grad=True))
    prior = latent.unimix(torch.randn(2, 4, 1, 3, 5, requires_grad=True))
    divergences = model._divergences(posterior, prior, torch.ones(2, 4, dtype=torch.bool))
    losses = {name: value.mean() for name, value in divergences.items()}
    for name, moved, still in [
        ("dynamics", prior, posterior),
        ("representation", posterior, prior),
    ]:
        reached = torch.autograd.grad(
            losses[name], [moved, still], allow_unused=True, retain_graph=True
        )
        assert reached[0].any(), name
        assert reached[1] is None, name
    torch.testing.assert_close(losses["dynamics"], losses["representation"])


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_codec_learns_from_frames_alone(detached: bool) -> None:
    """Fails where codes are moved by what is predicted from them, or are not learned at all."""
    model = make(VECTOR, spaces.Discrete(2), detached=detached)
    losses = model.loss(records(model, VECTOR, spaces.Discrete(2)), model.initial(ROWS)).losses

    def reaches(name: str) -> bool:
        weights = list(model.codec.parameters())
        found = torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True)
        return any(g is not None and bool(g.any()) for g in found)

    assert reaches("reconstruction")
    assert reaches("representation")
    for name in ("reward", "foresight", "continuation", "dynamics", "recall"):
        assert reaches(name) != detached


def test_free_nats_are_for_the_representation_alone() -> None:
    """Fails where divergences below the free nats still pull, or the transition gets any free."""
    model = make(VECTOR, spaces.Discrete(3), free_nats=1e3)
    data = records(model, VECTOR, spaces.Discrete(3))
    losses = model.loss(data, model.initial(ROWS)).losses
    foreseen = ~data.is_first
    foreseen[:, 0] = False  # nothing was carried in
    torch.testing.assert_close(losses["representation"], 1e3 * foreseen.float().mean())
    assert losses["dynamics"] < 1e2
    weights = [model.to_latents[-1].weight, model.transition.action.weight]
    pulled = torch.autograd.grad(losses["representation"], weights[:1], retain_graph=True)
    assert not pulled[0].any()
    assert torch.autograd.grad(losses["dynamics"], weights[1:])[0].any()


def corridor(rows: int = 8, length: int = 10) -> Records:
    """A passive T-maze seen as vectors: cue at the first record, reward for it at the last."""
    cue = torch.randint(2, (rows,)) * 2.0 - 1
    vector = torch.zeros(rows, length, 4)
    vector[:, 0, 0], vector[:, -1, 1] = cue, 1.0
    vector[:, 1:-1, 2] = 1.0
    is_first, is_terminal, reward = (torch.zeros(rows, length) for _ in range(3))
    is_first[:, 0], is_terminal[:, -1], reward[:, -1] = 1, 1, cue
    action = torch.zeros(rows, length, dtype=torch.long)
    return Records({"observation": vector}, action, reward, is_first.bool(), is_terminal.bool())


def train(model: WorldModel, data: Records, updates: int) -> list[dict[str, Tensor]]:
    """The losses of each update."""
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer, history = torch.optim.Adam(learned, 4e-3), []
    for _ in range(updates):
        result = model.loss(data, model.initial(len(data.reward)))
        optimizer.zero_grad()
        result.total.backward()
        optimizer.step()
        history.append({name: value.detach() for name, value in result.losses.items()})
    return history


CORRIDOR = ModelConfig(layers=("scan", "mlp"), width=32, latents=4, classes=4, free_nats=0.0)


def test_overfits_a_small_batch() -> None:
    """Fails where a loss cannot be learned: ten records of eight corridors, by heart."""
    history = train(WorldModel(VECTOR, spaces.Discrete(3), CORRIDOR), corridor(), 100)
    # Recall cannot fall below the entropy of the posterior.
    targets = {"reconstruction": 0.2, "reward": 0.2, "continuation": 0.2, "recall": 0.6}
    for name, share in targets.items():
        start, end = history[0][name], history[-1][name]
        assert end < share * start, (name, start, end)


def test_learns_what_comes_next() -> None:
    """Fails where the transition cannot foresee records that the features determine.

    The encoder is held, and made to say much: otherwise the target moves while it is learned.
    """
    weights = LossWeights(0.0, 0.0, 0.0, dynamics=1.0, representation=0.0, recall=0.0)
    model = WorldModel(VECTOR, spaces.Discrete(3), replace(CORRIDOR, loss=weights))
    model.to_latents[-1].weight.data *= 10
    for module in (model.codec, model.to_latents):
        module.requires_grad_(False)
    history = train(model, corridor(), 60)
    start, end = history[0]["dynamics"], history[-1]["dynamics"]
    assert start > 1
    assert end < 0.2 * start, (start, end)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("width", 0),
        ("head", 0),
        ("state", -1),
        ("expand", 0),
        ("grid", 0),
        ("codec", 0),
        ("latents", 0),
    ],
)
def test_sizes_below_one_are_refused(setting: str, value: int) -> None:
    """Fails where a size that makes no sense passes, or the error does not name the setting."""
    with pytest.raises(ValueError, match=rf"model\.{setting} = {value} must be at least 1"):
        WorldModel(VECTOR, spaces.Discrete(3), replace(SMALL, **{setting: value}))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", LOSSES)
def test_senseless_weights_are_refused(name: str, weight: float) -> None:
    """Fails where a loss is maximised, or poisoned, by its weight."""
    with pytest.raises(ValueError, match=rf"model\.loss\.{name} = .* must be 0 or a positive"):
        replace(LossWeights(), **{name: weight})


def test_one_class_is_refused() -> None:
    """Fails where latents that can say nothing pass."""
    with pytest.raises(ValueError, match=r"model\.classes = 1 must be at least 2"):
        WorldModel(VECTOR, spaces.Discrete(3), replace(SMALL, classes=1))


@pytest.mark.parametrize("width", [6, 10])
def test_every_width_that_the_head_divides_works_with_images(width: int) -> None:
    """Fails where a width that passes the checks dies in an assertion of torch's attention."""
    model = make(MIXED, spaces.Discrete(3), width=width, head=2)
    learned = model.loss(records(model, MIXED, spaces.Discrete(3)), model.initial(ROWS))
    assert learned.total.isfinite()


@pytest.mark.parametrize("layers", [("lssvwm",), ("window:4",), ("gru",)])
def test_autocast_changes_little(layers) -> None:
    """Fails where bfloat16 reaches what has to be exact: the scan's states and the softmaxes."""
    model = make(VECTOR, spaces.Discrete(3), layers)
    data = records(model, VECTOR, spaces.Discrete(3))
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            learned = model.loss(data, model.initial(ROWS), every=4)
        model.zero_grad()
        learned.total.backward()
        found.append(learned)
        states = [a for a in tree_leaves(learned.snapshots.backbone) if a.dim() > 4]
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    torch.testing.assert_close(found[1].total, found[0].total, rtol=0.05, atol=0)
    assert all(state.dtype == torch.float32 for state in states if state.dim() == 6)
