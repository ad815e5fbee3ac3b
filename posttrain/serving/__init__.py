"""Answering with the models of runs: every stage of a run by its name, on one copy of their base."""
