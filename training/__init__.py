"""What was learned: environment, policy, walk-forward evidence and the registry of models."""
