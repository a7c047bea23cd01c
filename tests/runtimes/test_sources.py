"""Which files a model comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.resources import Model, documents, parse
from engine.runtimes import sources


def model(spec: str) -> Model:
    text = f"apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {{name: number}}\nspec: {spec}\n"
    resource, problems = parse(documents(text, "number.yaml")[0][0])
    assert isinstance(resource, Model), problems
    return resource


def names(spec: str, folder: Path) -> list[str]:
    """The files of a model, as paths below the folder."""
    return sorted(str(Path(path).relative_to(folder)) for path in sources.of(model(spec), folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with modules that import each other, and artefacts."""
    for name, text in {
        "number.py": "import numpy\nimport helper, os\ndef model(INPUT):\n    from lazy import inner\n",
        "helper.py": "from package import part\nimport number\n",
        "lazy.py": "import broken",
        "broken.py": "def (",
        "package/__init__.py": "",
        "package/part.py": "from . import rest\n",
        "package/rest.py": "",
        "unrelated.py": "",
        "os.py": "",
        "model.joblib": "",
        "artefact/model.bst": "",
        "artefact/deep/more.json": "",
        "artefact/.hidden": "",
        "artefact/__pycache__/x.pyc": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_function_comes_from_its_module_and_those_beside_it_that_it_imports(folder: Path) -> None:
    assert names("{storageUri: 'python:number:model'}", folder) == [
        "broken.py",
        "helper.py",
        "lazy.py",
        "number.py",
        "package/__init__.py",
        "package/part.py",
        "package/rest.py",
    ]


def test_a_module_that_is_imported_and_is_not_there_yet_is_found_when_it_is(folder: Path) -> None:
    (folder / "lazy.py").unlink()
    assert "lazy.py" not in names("{storageUri: 'python:number:model'}", folder)
    (folder / "lazy.py").write_text("")
    assert "lazy.py" in names("{storageUri: 'python:number:model'}", folder)


@pytest.mark.parametrize(
    "uri", ["model.joblib", "./model.joblib", "{folder}/model.joblib", "file://{folder}/model.joblib"]
)
def test_an_artefact_is_its_file(folder: Path, uri: str) -> None:
    assert names(f"{{storageUri: '{uri.format(folder=folder)}', requirements: [sklearn]}}", folder) == ["model.joblib"]


def test_an_artefact_of_many_files_is_all_that_is_not_hidden(folder: Path) -> None:
    found = names("{storageUri: artefact, requirements: [xgboost]}", folder)
    assert found == ["artefact", "artefact/deep/more.json", "artefact/model.bst"]


def test_a_class_of_ones_own_belongs_to_its_artefact(folder: Path) -> None:
    spec = "{storageUri: model.joblib, requirements: [mlserver], parameters: [{name: implementation, value: lazy.Own}]}"
    assert names(spec, folder) == ["broken.py", "lazy.py", "model.joblib"]


@pytest.mark.parametrize(
    "spec",
    [
        "{storageUri: 'grpc://host:8001/number'}",
        "{storageUri: 's3://bucket/model.joblib', requirements: [sklearn]}",
        "{storageUri: 'file://elsewhere/model.joblib', requirements: [sklearn]}",
        "{storageUri: nothing.joblib, requirements: [sklearn]}",
        "{storageUri: 'python:numpy:abs'}",
        "{explainer: {type: shap, modelRef: other}}",
    ],
)
def test_what_comes_from_elsewhere_has_no_files_here(folder: Path, spec: str) -> None:
    assert names(spec, folder) == []


def test_an_edit_and_a_file_that_takes_the_place_of_another_change_its_stamp(folder: Path) -> None:
    spec, path = model("{storageUri: model.joblib, requirements: [sklearn]}"), folder / "model.joblib"
    first = sources.of(spec, folder)
    path.write_text("longer")
    second = sources.of(spec, folder)
    (folder / "new").write_text("others")
    os.utime(folder / "new", ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    (folder / "new").replace(path)
    assert len({tuple(each.items()) for each in (first, second, sources.of(spec, folder))}) == 3


def test_a_link_that_leads_elsewhere_changes_the_stamp_of_what_it_leads_to(folder: Path) -> None:
    """As Kubernetes swaps a ConfigMap: files are links through one folder, which is a link itself."""
    for version in ("one", "two"):
        (folder / f"..{version}").mkdir()
        (folder / f"..{version}" / "mounted.joblib").write_text("same")
    (folder / "..data").symlink_to("..one")
    (folder / "mounted.joblib").symlink_to("..data/mounted.joblib")
    spec = model("{storageUri: mounted.joblib, requirements: [sklearn]}")
    first = sources.of(spec, folder)
    (folder / "..data_tmp").symlink_to("..two")
    (folder / "..data_tmp").rename(folder / "..data")
    assert sources.of(spec, folder) != first
