"""The world model: what the agent remembers and dreams."""
