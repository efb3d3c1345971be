"""The training loop and what it needs: steps, optimizer, checkpoints, metrics, evaluation."""
