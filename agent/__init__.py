"""The agent: replay, imagination, returns, actor-critic, learner, and acting."""
