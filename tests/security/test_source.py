"""What the source may not do, read from its syntax tree: unpickle, evaluate, run code of a model, ask a shell."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from posttrain.pipeline.floors import FLOORS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("posttrain", "pipeline", "stages", "data_formats", "recipes")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
# Processes of one user talk by pipes, and by files in a folder that only they can write to; see their docstrings.
PICKLES = {"data_formats/processes.py", "data_formats/tokens/handover.py"}
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
    "shelve.open", "joblib.load", "dill.loads", "dill.load", "cloudpickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "numpy.load", "np.load", "tarfile.open", "zipfile.ZipFile", "shutil.unpack_archive", "tempfile.mktemp", "subprocess.getoutput",
}  # fmt: skip


NODES = [(path, node) for path in FILES for node in ast.walk(ast.parse(path.read_text("utf-8")))]


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """(file, call, the name that is called)."""
    for path, node in NODES:
        if isinstance(node, ast.Call):
            yield path.relative_to(ROOT).as_posix(), node, ast.unparse(node.func)


CALLS = list(calls())


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def test_the_source_was_read() -> None:
    assert len(FILES) > 200 and len(CALLS) > 5_000
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FOLDERS)


def test_nothing_forbidden_is_called() -> None:
    found = {f"{file}: {name}" for file, _, name in CALLS if name in FORBIDDEN}
    assert found == {
        f"{file}: {name}" for file in PICKLES for name in ("pickle.loads", "pickle.load")
        if any(one == file and called == name for one, _, called in CALLS)
    }  # fmt: skip


def test_no_shell_is_asked() -> None:
    assert [file for file, call, _ in CALLS if keyword(call, "shell") not in (None, "False")] == []


def test_our_programs_import_nothing_from_where_they_are_started() -> None:
    """Python puts the working directory first with -c and -m, unless it is given -P."""
    made = [
        (path.name, ast.unparse(node))
        for path, node in NODES
        if isinstance(node, (ast.List, ast.Tuple)) and "sys.executable" in ast.unparse(node)
    ]
    ours = [(file, text) for file, text in made if re.search(r"'-[cm]'", text)]
    assert len(ours) >= 3
    assert [one for one in ours if "'-P'" not in one[1]] == []


def test_torch_reads_weights_only() -> None:
    wrong = [
        file
        for file, call, name in CALLS
        if name.endswith("torch.load") and keyword(call, "weights_only") != "True"
    ]
    assert wrong == []


def loads_a_model(name: str) -> bool:
    """Of transformers' Auto classes, by their names or those that stand for them here. PEFT runs no code of adapters."""
    owner, _, method = name.rpartition(".")
    return method in ("from_pretrained", "from_config") and not re.search(r"Peft|Quantizer", owner)


def test_a_models_code_runs_by_the_switch_alone() -> None:
    found = [(file, keyword(call, "trust_remote_code")) for file, call, name in CALLS if loads_a_model(name)]
    assert len(found) >= 14
    assert [file for file, given in found if given not in ("False", "trusts_remote_code()")] == []


def test_nothing_else_speaks_of_it() -> None:
    given = [(file, keyword(call, "trust_remote_code")) for file, call, _ in CALLS]
    assert {value for _, value in given} == {None, "False", "trusts_remote_code()"}
    reads = [file for file, call, name in CALLS if name.startswith("os.environ") and any("SWITCH" in ast.unparse(arg) for arg in call.args)]  # fmt: skip
    assert reads == ["pipeline/remote_code.py"]


def test_weights_are_read_from_safetensors() -> None:
    models = [call for file, call, name in CALLS if name.endswith(".from_pretrained") and file in ("pipeline/model_ref.py", "stages/export/read_back.py")]  # fmt: skip
    loads = [
        call
        for call in models
        if "dtype" in {one.arg for one in call.keywords} and keyword(call, "gguf_file") is None
    ]
    assert len(loads) == 2
    assert [keyword(call, "use_safetensors") for call in loads] == ["True", "True"]


def test_templates_of_models_are_rendered_in_the_sandbox() -> None:
    """The only environments of jinja are those of our own pages."""
    made = {file for file, _, name in CALLS if name.endswith(("Environment", "from_string"))}
    assert made == {"posttrain/ui/pages.py", "posttrain/report/page.py", "data_formats/inspection_page.py"}
    for file, call, name in CALLS:
        if name == "Environment":
            assert keyword(call, "autoescape") == "True", file


@pytest.mark.parametrize("package", FLOORS)
def test_pip_keeps_the_floors(package: str) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (given,) = [re.search(r">=([\d.]+)", one) for one in wanted if re.match(rf"{package}\W", one)]
    assert given is not None
    assert tuple(map(int, given[1].split("."))) >= FLOORS[package]
