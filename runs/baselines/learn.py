"""Train PPO or RecurrentPPO in a run's folder."""

from functools import partial
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from envs import Episode, make
from runs.baselines.flat import Flat
from runs.baselines.policy import Baseline, BaselineConfig, Learned, algorithm
from runs.config import Config
from runs.telemetry import Telemetry


def make_envs(kind: Learned, config: Config, settings: BaselineConfig) -> VecEnv:
    """Environments of a run as SB3 takes them."""
    one = partial(make, config.env, config.env_kwargs, config.wrappers)
    envs: VecEnv = DummyVecEnv([lambda: Monitor(Flat(one()))] * config.num_envs)
    envs.seed(config.seed)
    return VecFrameStack(envs, settings.stack) if kind == "ppo" else envs


def learn(kind: Learned, config: Config, settings: BaselineConfig, folder: Path) -> Baseline:
    """Train PPO or RecurrentPPO for the run's steps."""
    envs = make_envs(kind, config, settings)
    body, name, kwargs = algorithm(kind, envs.observation_space, settings)
    model = body(
        name,
        envs,
        learning_rate=lambda left: settings.learning_rate * left,
        n_steps=settings.rollout,
        batch_size=min(settings.minibatch, settings.rollout * config.num_envs),
        n_epochs=settings.epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        ent_coef=settings.entropy,
        clip_range=settings.clip,
        policy_kwargs=kwargs,
        seed=config.seed,
        device="cpu",
    )
    telemetry = Telemetry(folder)
    try:
        watch = Watch(telemetry, config.log_every)
        model.learn(config.steps, callback=watch)
        watch.tell()
    finally:
        telemetry.close()
        envs.close()
    bare = make(config.env, config.env_kwargs, config.wrappers)
    bare.close()
    return Baseline(kind, bare.observation_space, bare.action_space, model.policy)


class Watch(BaseCallback):
    """Writes finished episodes into the run's metrics, as our own training does."""

    def __init__(self, telemetry: Telemetry, every: int) -> None:
        super().__init__()
        self.telemetry, self.every, self.told = telemetry, every, 0

    def _on_step(self) -> bool:
        for index, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                success = bool(info["is_success"]) if "is_success" in info else None
                found = info["episode"]
                self.telemetry.episode(Episode(index, int(found["l"]), float(found["r"]), success))
        if self.num_timesteps - self.told >= self.every:
            self.tell()
        return True

    def tell(self) -> None:
        """Write what came together since the last line."""
        self.told = self.num_timesteps
        if self.telemetry.sums:
            self.telemetry.write(self.num_timesteps, self.model._n_updates, {})
