"""Measuring: arms of worker processes that take whole training steps in turn, and what is made of their times."""
