"""Recipes as files: YAML that builds the same Pipeline as Python, and scripts with one function that returns one."""

from .build import build
from .nodes import Node, changed, read_yaml
from .scripts import pipeline_of_script, run_script

__all__ = ["Node", "build", "changed", "pipeline_of_script", "read_yaml", "run_script"]
