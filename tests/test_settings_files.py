"""Files of settings that are mistakes or bombs: refused with file and line or key, in bounded time and memory."""

import json
import subprocess
import sys

import psutil
import pytest

from vadtune.errors import ConfigError
from vadtune.settings import MAX_DEPTH, merge, parse_assignments, read_json, read_toml
from vadtune.tuning.autoscaling import read_types

DEEP = 5000
BOMBS = {
    "a key said twice": ("a = 1\na = 2", "Cannot overwrite a value"),
    "a group said twice": ("[a]\nb = 1\n[a]\nc = 2", r"at line 3"),
    "a group that is a value": ("a = 1\n[a.b]\nc = 2", r"at line 2"),
    "a key of many parts": ("x = 1\n" + "a." * 100_000 + "a = 1", r"a key of more than \d+ parts \(at line 2\)"),
    "a quoted key of many parts": ('"a" . ' * 10_000 + "a = 1", r"more than \d+ parts \(at line 1\)"),
    "a key of odd parts": (r'"\"a" . ' * 10_000 + "a = 1", "more than"),
    "a group of many parts": ("[" + "a." * 10_000 + "a]", r"more than \d+ parts"),
    "arrays in arrays": ("a = " + "[" * DEEP + "]" * DEEP, "levels within each other"),
    "tables in tables": ("a = " + "{a=" * DEEP + "1" + "}" * DEEP, "levels within each other"),
    "few levels too many": ("a = " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels within each other"),
    "an endless number": ("a = " + "1" * 10_000, "not TOML"),
    "a null byte": ('a = "\0"', r"Illegal character.*line 1"),
    "no text": (b"\xff\xfe\x00", "not TOML"),
    "a megabyte too much": ("# nothing\n" * 100_001, "more than 1 MB"),
}


@pytest.mark.parametrize(("text", "words"), BOMBS.values(), ids=BOMBS.keys())
def test_toml_that_cannot_be_settings_is_refused(tmp_path, text, words):
    path = tmp_path / "space.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = psutil.Process().memory_info().rss
    with pytest.raises(ConfigError, match=words) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert psutil.Process().memory_info().rss - before < 50e6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a' stands there twice"),
        ('{"a": {"b": 1, "b": 1}}', "'b' stands there twice"),
        ('{"a": ' + "1" * 10_000 + "}", "not JSON"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "levels within each other"),
        ('{"a":' * 60 + "1" + "}" * 60, "levels within each other"),
        ('{"a": 1\n"b": 2}', "line 2"),
        ("[1]", "found a list, expected an object"),
        (b'{"a": "\xff"}', "not JSON"),
    ],
)
def test_json_that_cannot_be_settings_is_refused(tmp_path, text, words):
    path = tmp_path / "settings.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=words) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_without_an_end_is_not_read_to_it(tmp_path):
    (tmp_path / "space.toml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="more than 1 MB"):
        read_toml(tmp_path / "space.toml")


def test_what_settings_look_like_is_read(tmp_path):
    path = tmp_path / "space.toml"
    names = [f"a.{k}.b" for k in range(1000)]
    text = "part." * 300
    path.write_text(f'ignore = {json.dumps(names)}\nname = "{text}"\na.b.c = {{d.e = [[1], [[2]]]}}\n')
    assert read_toml(path)["ignore"] == names
    assert read_toml(path)["a"] == {"b": {"c": {"d": {"e": [[1], [[2]]]}}}}


@pytest.mark.parametrize("path", ["a." * 100 + "b", "a." * 60_000 + "b"])
def test_a_flag_of_many_parts_is_refused(path):
    with pytest.raises(ConfigError, match="expected PATH=VALUE"):
        parse_assignments([f"{path}=1"])


@pytest.mark.parametrize("value", ["[" * DEEP + "]" * DEEP, "1" * 10_000, "{a=" * DEEP, "a." * 5000])
def test_a_flag_whose_value_is_no_toml_is_a_word(value):
    assert merge({}, parse_assignments([f"model.kind={value}"])) == {"model": {"kind": value}}


def test_aliases_of_yaml_do_not_multiply(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, 64))]
    path = tmp_path / "cluster.yaml"
    path.write_text("\n".join([*lines, "max_workers: 1", "available_node_types: {w: {resources: {CPU: 2}}}"]))
    found = read_types(path)
    assert found is not None
    assert [(kind.name, kind.max_workers) for kind in found] == [("w", 1)]


def test_the_command_tells_a_bomb_in_one_line(tmp_path):
    (tmp_path / "bomb.toml").write_text("a." * 100_000 + "a = 1")
    command = [sys.executable, "-m", "vadtune.search", "wine", "--space", "bomb.toml", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "bomb.toml: not TOML: a key of more than" in done.stderr
    assert len(done.stderr) < 1000
