"""Clusters that are not here: what a training step would take on them, as a pure model of time. It needs no torch."""
