"""What leaves the library: a trained model in a form that others read, proven to be the model that was trained."""

from .stage import Export

__all__ = ["Export"]
