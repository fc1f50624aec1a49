"""A run from first step to verdict: command line, recipes, training, evaluation, baselines."""
