"""`seldon config`, and which settings hold: flags, environment, `kafka.json`, the active config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli import configs, main, options


def seldon(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def written(name: str, broker: str, host: str = "") -> str:
    path = Path.cwd() / f"{name}.json"
    path.write_text(json.dumps({"dataplane": {"inferHost": host}, "kafka": {"bootstrap": broker, "namespace": "ns"}}))
    return str(path)


def test_configs_are_listed_with_the_active_one_marked() -> None:
    paths = [written("a", "a:1"), written("b", "b:1")]
    assert [seldon("add", name, path).output for name, path in zip("ab", paths, strict=True)] == ["", ""]
    assert (seldon("activate", "b").exit_code, seldon("activate", "b").output) == (0, "")
    assert [line.split() for line in seldon("list").stdout.splitlines()] == [
        ["config", "path", "active"],
        ["------", "----", "------"],
        ["a", paths[0]],
        ["b", paths[1], "*"],
    ]
    assert json.loads(seldon("list", "-o", "json").stdout)[1] == {"config": "b", "path": paths[1], "active": True}


def test_one_config_is_shown_as_it_is() -> None:
    path = written("a", "a:1")
    seldon("add", "a", path)
    assert json.loads(seldon("list", "a").stdout) == json.loads(Path(path).read_text())
    assert len(seldon("list", "a", "-o", "table").stdout.splitlines()) == 3


def test_a_config_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written("a", "a:1")
    seldon("add", "a", "a.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert seldon("activate", "a").exit_code == 0


def test_a_config_that_is_no_longer_active_holds_no_more() -> None:
    seldon("add", "a", written("a", "a:1"))
    seldon("activate", "a")
    assert options.settings({}, default_broker=True).kafka_broker == "a:1"
    seldon("deactivate", "a")
    assert options.settings({}, default_broker=True).kafka_broker == options.DEFAULT_BROKER


def test_a_config_that_is_removed_is_active_no_more_and_its_file_stays() -> None:
    path = written("a", "a:1")
    seldon("add", "a", path)
    seldon("activate", "a")
    assert seldon("remove", "a").exit_code == 0
    assert configs.read() == configs.Configs({})
    assert Path(path).is_file()


@pytest.mark.parametrize("verb", ["activate", "deactivate", "remove", "list"])
def test_a_config_that_there_is_not_is_a_failure(verb: str) -> None:
    result = seldon(verb, "k")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: Config key k not found\n")


def test_a_file_that_is_no_config_is_not_added() -> None:
    Path("bad.json").write_text("{")
    assert (seldon("add", "bad", "bad.json").exit_code, configs.read()) == (2, configs.Configs({}))


@pytest.mark.parametrize("text", ["{", "[]", '{"configs": {"a": 5}}', '{"configs": {}, "active": "a"}'])
def test_a_list_of_configs_that_is_none_is_told_of_and_left_alone(text: str) -> None:
    configs.folder().mkdir(parents=True)
    path = configs.folder() / "configs.json"
    path.write_text(text)
    result = seldon("add", "a", written("a", "a:1"))
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {path}: it is no list of configs; repair it, or delete it\n",
    )
    assert path.read_text() == text


def test_flags_win_over_the_active_config_that_over_the_environment_and_that_over_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("kafka.json").write_text('{"bootstrap.servers": "file:1", "topics": {"numPartitions": 3}}')
    flags = {"kafka_config_path": "kafka.json", "kafka_broker": None}

    def broker(flag: str | None = None) -> str:
        return options.settings({**flags, "kafka_broker": flag}, default_broker=True).kafka_broker

    assert broker() == "file:1"
    monkeypatch.setenv("SELDON_KAFKA_BROKER", "environment:1")
    assert broker() == "environment:1"
    seldon("add", "a", written("a", "config:1"))
    seldon("activate", "a")
    assert broker() == "config:1"
    assert broker("flag:1") == "flag:1"
    found = options.settings(flags, default_broker=True)
    assert (found.namespace, found.partitions) == ("ns", 3)


def test_the_active_config_leaves_a_process_alone_that_starts_its_own_broker() -> None:
    seldon("add", "a", written("a", "config:1"))
    seldon("activate", "a")
    assert (options.settings({}).kafka_broker, options.settings({}).namespace) == ("", "default")


def test_the_active_config_says_which_gateway_is_called_unless_a_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELDON_INFER_HOST", "127.0.0.1:3")
    seldon("add", "a", written("a", "a:1", "127.0.0.1:2"))
    seldon("activate", "a")

    def called(*flags: str) -> str:
        result = CliRunner().invoke(main, ["model", "infer", "m", "{}", *flags])
        assert result.exit_code == 1
        return result.stderr

    assert "no gateway answers at 127.0.0.1:2" in called()
    assert "no gateway answers at 127.0.0.1:4" in called("--inference-host", "127.0.0.1:4")
    seldon("deactivate", "a")
    assert "no gateway answers at 127.0.0.1:3" in called()


def test_an_active_config_that_is_gone_is_told_of_with_the_way_out() -> None:
    path = written("a", "a:1")
    seldon("add", "a", path)
    seldon("activate", "a")
    Path(path).unlink()
    result = CliRunner().invoke(main, ["model", "list"])
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {path}: No such file or directory; or do without it by `seldon config deactivate a`\n",
    )
    assert seldon("deactivate", "a").exit_code == 0
