"""Who acts: replay, imagination, returns, actor-critic, learner, the acting agent."""

from agent.agent import Agent

__all__ = ["Agent"]
