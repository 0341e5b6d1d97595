"""The `ray up` files in cluster/: Ray's own schema check, and what a reader of them relies on."""

import copy
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("ray.autoscaler._private.util", reason="needs ray[default]")
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLOUDS = ["aws", "gcp", "azure"]
NAMES = [*CLOUDS, "onprem"]
Config = dict[str, Any]


def read(name: str) -> Config:
    return yaml.safe_load((ROOT / f"cluster/{name}.yaml").read_text())


def check(config: Config) -> Config:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_file(name: str):
    assert check(read(name))["cluster_name"] == "vadtune"


def misspell_a_key(config: Config) -> None:
    config["idle_timeout_minute"] = 5


def write_a_number_as_text(config: Config) -> None:
    config["max_workers"] = "eight"


def forget_the_kind_of_provider(config: Config) -> None:
    del config["provider"]["type"]


def give_a_setting_ssh_does_not_have(config: Config) -> None:
    config["auth"]["ssh_usr"] = "ubuntu"


def write_one_command_instead_of_a_list(config: Config) -> None:
    config["setup_commands"] = "true"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "breaks",
    [
        misspell_a_key,
        write_a_number_as_text,
        forget_the_kind_of_provider,
        give_a_setting_ssh_does_not_have,
        write_one_command_instead_of_a_list,
    ],
)
def test_ray_refuses_a_broken_copy(name: str, breaks: Callable[[Config], None]):
    config = read(name)
    breaks(config)
    with pytest.raises((ValidationError, KeyError, TypeError)):
        check(config)


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_refuses_a_head_of_unknown_type(name: str):
    with pytest.raises(ValueError, match="head_node_type"):
        check({**read(name), "head_node_type": "haed"})


@pytest.mark.parametrize("name", NAMES)
def test_the_first_lines_are_commands_that_use_the_file(name: str):
    text = (ROOT / f"cluster/{name}.yaml").read_text()
    head = "\n".join(line for line in text[: text.index("\ncluster_name:")].splitlines())
    for command in ("ray up -y", "ray submit", "ray job submit", "ray dashboard", "ray down -y", "get-auth-token"):
        assert command in head
    assert set(re.findall(r"cluster/\w+\.yaml", head)) == {f"cluster/{name}.yaml"}
    assert "umask 077" in head


@pytest.mark.parametrize("name", NAMES)
def test_a_token_is_asked_for_and_only_its_owner_reads_it(name: str):
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"][0]
    assert any("RAY_AUTH_MODE=token' >> ~/.bashrc" in command for command in config["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_sent_to_the_nodes_exists(name: str):
    sent = [path for path in read(name)["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in sent if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_a_shell_command(name: str):
    config = read(name)
    for key in [key for key in config if key.endswith("_commands")]:
        for command in config[key]:
            assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command
            assert " #" not in command  # a comment of YAML's, which cuts a command short


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_are_ended_not_stopped(name: str):
    config = read(name)
    assert config["provider"]["cache_stopped_nodes"] is False
    assert 0 < config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", CLOUDS)
def test_spot_machines_come_first_and_full_price_ones_when_there_are_none(name: str):
    types = read(name)["available_node_types"]
    assert types["gpu_spot"]["priority"] > types["gpu_on_demand"]["priority"]
    assert types["gpu_spot"]["max_workers"] > types["gpu_on_demand"]["max_workers"] > 0
    assert types["gpu_spot"]["min_workers"] == types["gpu_on_demand"]["min_workers"] == 0
    assert "spot" in str(types["gpu_spot"]["node_config"]).lower()
    assert "spot" not in str(types["gpu_on_demand"]["node_config"]).lower()
    assert types["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("path", sorted((ROOT / "cluster").rglob("*.*")), ids=lambda path: path.name)
def test_no_file_holds_a_key(path: Path):
    words = (
        r"access_key|secret_access|private_key_id|BEGIN [A-Z ]*PRIVATE|AKIA[0-9A-Z]{16}|account-key|token: [0-9a-f]{8}"
    )
    assert re.findall(words, path.read_text(), re.IGNORECASE) == []


def test_every_dependency_of_a_node_is_pinned_to_a_version_that_vadtune_accepts():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pairs}
    wanted = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert [str(need) for need in wanted if pins.get(canonicalize_name(need.name)) not in need.specifier] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_the_first_lines_are_shell(name: str):
    text = (ROOT / f"cluster/{name}.yaml").read_text()
    commands = "\n".join(line[4:] for line in text.splitlines() if line.startswith("#   "))
    assert subprocess.run(["bash", "-n", "-c", commands], check=False).returncode == 0
