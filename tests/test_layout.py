"""The tree is what the design says: packages, who imports whom, and how fast the facade is."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("pipeline", "stages", "data_formats", "recipes")


def test_every_package_of_the_tree_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join(("posttrain", *path.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    } | {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "posttrain").rglob("__init__.py")}
    assert set(settings["packages"]) == found


def imports_of(path: Path) -> set[str]:
    """The posttrain folders that a module imports, at any depth of its code."""
    here = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                package = (*here[: len(here) - node.level + 1], *(node.module or "").split("."))
                names = [package[0]] if package[0] else [alias.name for alias in node.names]
            else:
                parts = (node.module or "").split(".")
                if parts[0] != "posttrain":
                    continue
                names = [parts[1]] if len(parts) > 1 else ["posttrain"]
            found |= {name for name in names if name in (*FOLDERS, "posttrain", "errors", "cli")}
    return found - {here[0]}


ALLOWED = {
    "pipeline": {"errors"},
    "data_formats": {"errors"},
    "stages": {"errors", "pipeline", "data_formats"},
    "recipes": {"posttrain", "cli"},
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_who_imports_whom(folder: str) -> None:
    modules = list((ROOT / folder).rglob("*.py"))
    assert modules
    for path in modules:
        allowed = ALLOWED[folder] | (
            {"posttrain"} if path.name == "token_tables.py" else set()
        )  # its own package's path
        assert imports_of(path) <= allowed, path


def test_strategies_know_no_trl_and_two_modules_do() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "import trl" in path.read_text() or "from trl" in path.read_text()
    ]
    assert users == [
        "stages/trl_trainers.py"
    ]  # beside trl_api.py, which reads its files without importing them


@pytest.mark.parametrize("command", [["-c", "import posttrain"], ["-m", "posttrain", "--help"]])
def test_the_facade_loads_nothing_heavy(command: list[str]) -> None:
    code = "import sys, runpy, atexit\n" if command[0] == "-m" else ""
    heavy = "('torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'wandb', 'accelerate', 'starlette', 'uvicorn')"
    report = f"[name for name in {heavy} if name in sys.modules]"
    if command[0] == "-m":
        code += f"atexit.register(lambda: print('LOADED', {report}))\nsys.argv = ['posttrain', '--help']\n"
        code += "runpy.run_module('posttrain', run_name='__main__')"
    else:
        code = f"import posttrain, sys; print('LOADED', {report})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "LOADED []" in done.stdout, done.stdout + done.stderr


def test_no_bare_top_level_packages() -> None:
    """`import stages` from the root fails at once, so that there is never a second copy of a class."""
    done = subprocess.run([sys.executable, "-c", "import stages"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "relative import" in done.stderr
