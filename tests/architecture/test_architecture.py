"""What holds for the whole tree: layers, sizes, docstrings, foreign imports, and what no file may hold."""

from __future__ import annotations

import ast
import configparser
import importlib
import io
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engine"

MODULES = sorted(ENGINE.rglob("*.py"))
PACKAGES = sorted(".".join(init.parent.relative_to(ROOT).parts) for init in ENGINE.rglob("__init__.py"))

MODULE_LINES = 600
FUNCTION_LINES = 60
# "path" or "path:function" -> why it is longer, in words that a reader agrees with.
LONGER: dict[str, str] = {}

# Package -> where it may be imported, as patterns of paths from the project's root.
ALLOWED = {
    "mlserver": ("engine/runtimes/mlserver.py",),
    "mlserver_lightgbm": ("engine/runtimes/mlserver.py",),
    "mlserver_sklearn": ("engine/runtimes/mlserver.py",),
    "mlserver_xgboost": ("engine/runtimes/mlserver.py",),
    "onnxruntime": ("engine/runtimes/onnx.py",),
    "shap": ("engine/runtimes/shapley.py",),
    "aiokafka": ("engine/kafka/*", "engine/inspect*", "engine/redrive.py"),
    "faust": ("engine/kafka/*", "engine/inspect*", "engine/redrive.py"),
    "mode": ("engine/kafka/*", "engine/inspect*", "engine/redrive.py"),
    "grpc": ("engine/gateway/*", "engine/runtimes/remote_grpc.py", "engine/cli*"),
    "aiohttp": (
        "engine/gateway/*",
        "engine/ui/*",
        "engine/runtimes/remote_rest.py",
        "engine/runtimes/stores.py",
        "engine/cli*",
    ),
    "fsspec": ("engine/runtimes/stores.py",),
    "opentelemetry": ("engine/telemetry/spans.py", "engine/telemetry/export.py"),
    "prometheus_client": ("engine/telemetry/exposition.py",),
    "click": ("engine/cli*",),
    "rich": ("engine/cli*",),
    "uvloop": ("engine/cli/serve.py",),
}

# In pieces, so that this file does not hold what it forbids.
REGISTRIES = (
    "pypi" + ".org",
    "files.python" + "hosted.org",
    "repo.maven" + ".apache.org",
    "repo1" + ".maven.org",
)
MACHINE_PATHS = ("/" + "work/", "/" + "tmp/w/")
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".xml", ".proto", ".sh", ".cfg", ".ini", ".json", ""}
PASSED_OVER = {"jars", "node_modules", "__pycache__", "build", "dist"}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def may_import(package: str, path: Path) -> bool:
    """Whether a pattern fits the path or a folder of it: `engine/cli*` is cli.py, and all of cli/."""
    own = path.relative_to(ROOT)
    return any(part.match(pattern) for pattern in ALLOWED[package] for part in (own, *own.parents))


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and full name of each module that is imported, at any depth."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module))
    return found


def files_of_the_tree() -> list[Path]:
    """What git would take: tracked files and new ones, without the ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # a source archive has no git
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part in PASSED_OVER or part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.suffix in TEXT and path.is_file()]


def exists(module: str) -> bool:
    place = ROOT.joinpath(*module.split("."))
    return module.partition(".")[0] != "engine" or place.is_dir() or place.with_suffix(".py").is_file()


def contracts_about_what_exists() -> str:
    """pyproject's contracts for import-linter; a module that is not written yet would stop it."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    config = configparser.ConfigParser()
    config["importlinter"] = {name: str(value) for name, value in rules.items() if name != "contracts"}
    for number, contract in enumerate(rules["contracts"]):
        section: dict[str, str] = {}
        for name, value in contract.items():
            if isinstance(value, list):
                kept = [[part for part in line.split(" | ") if exists(part)] for line in value]
                section[name] = "\n" + "\n".join(" | ".join(parts) for parts in kept if parts)
            else:
                section[name] = str(value)
        config[f"importlinter:contract:{number}"] = section
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def test_imports_point_towards_protocol(tmp_path: Path) -> None:
    config = tmp_path / "contracts.ini"
    config.write_text(contracts_about_what_exists(), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", config],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ALLOWED)
def test_a_library_is_imported_only_where_it_belongs(package: str) -> None:
    strays = [
        f"{named(path)}:{line} imports {name}"
        for path in MODULES
        if not may_import(package, path)
        for line, name in imports(path)
        if name.split(".")[0] == package
    ]
    assert strays == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_docstring(package: str) -> None:
    module = importlib.import_module(package)
    public = [getattr(module, name) for name in getattr(module, "__all__", ())]
    # Constants carry a comment instead: a string or a number would show its type's docstring.
    bare = [thing for thing in public if callable(thing) and not (thing.__doc__ or "").strip()]
    assert bare == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {n: length for n, length in lengths.items() if length > MODULE_LINES and n not in LONGER} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {
        f"{named(path)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {n: length for n, length in lengths.items() if length > FUNCTION_LINES and n not in LONGER} == {}


def test_every_reason_for_length_is_still_needed() -> None:
    paths = {key.partition(":")[0] for key in LONGER}
    assert paths <= {named(path) for path in MODULES}


def test_nothing_that_runs_code_from_data_is_used() -> None:
    """joblib in a model's own runtime is the one way in, and it is guarded there (design: allow_pickle)."""
    unpicklers = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
    found = [
        f"{named(path)}:{line} imports {name}"
        for path in MODULES
        for line, name in imports(path)
        if name.split(".")[0] in unpicklers
    ]
    found += [
        f"{named(path)}:{node.lineno} uses {ast.unparse(node)}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"yaml.load", "yaml.unsafe_load"}
    ]
    assert found == []


def test_no_file_names_a_package_registry_or_a_path_of_this_machine() -> None:
    forbidden = (*REGISTRIES, *MACHINE_PATHS)
    found = [
        f"{named(path)}: {word}"
        for path in files_of_the_tree()
        for text in [path.read_text(encoding="utf-8", errors="replace")]
        for word in forbidden
        if word in text
    ]
    assert found == []
