"""What a dataset decides of a run's settings."""

from collections.abc import Collection
from dataclasses import replace

from envs.dataset import absolute, open_dataset, origin
from runs.config import Config

ENV = ("--env", "--env-kwargs", "--wrappers")


def settled(config: Config, given: Collection[str] = ()) -> Config:
    """The settings of a run on a dataset: the world model alone, and where it was recorded.

    `given` are the options of the command line; those of ENV are for a dataset that does not say
    it. Without a dataset, the settings are as they were.

    Raises:
        ValueError: where the dataset cannot be read, or says it and was told as well.
    """
    if not config.dataset:
        return config
    found = origin(open_dataset(config.dataset))
    told = [option for option in ENV if option in given]
    if found and told:
        raise ValueError(
            f"The dataset {config.dataset} was recorded in {found.env}, which becomes the run's "
            f"environment: leave out {', '.join(told)}."
        )
    own = {"dataset": absolute(config.dataset), "model_only": True}
    if found:
        return replace(config, **own, **found._asdict())
    if "--env" in given:
        return replace(config, **own)
    return replace(config, **own, env="", env_kwargs={}, wrappers=())
