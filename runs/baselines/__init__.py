"""Stable-Baselines3 in the same environments, folders and evaluation."""
