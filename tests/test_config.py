"""Strict configs: what is asked for arrives typed, and every slip is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gpavatar.config import MISSING, load_config, run_program
from gpavatar.types import InputError


@dataclass(frozen=True)
class SamplerConfig:
    near: float = 4.0
    num_samples: int = 48


@dataclass(frozen=True)
class RunConfig:
    name: str = MISSING
    background: Literal["black", "source"] = "source"
    sizes: list[int] = field(default_factory=lambda: [256, 512])
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self):
        if self.sampler.near <= 0:
            raise InputError("sampler.near must be above 0")


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def message_of(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_yaml_holds_only_what_differs(tmp_path):
    config = load_config(RunConfig, write(tmp_path, "name: a\nsampler: {near: 3}"))
    assert config == RunConfig("a", sampler=SamplerConfig(near=3.0))
    assert type(config.sampler.near) is float and isinstance(config.sampler, SamplerConfig)


def test_later_files_and_then_pairs_win(tmp_path):
    first = write(tmp_path, "name: a\nsizes: [64]", "first.yaml")
    second = write(tmp_path, "name: b\nsampler: {near: 2}", "second.yaml")
    config = load_config(RunConfig, first, second, overrides=("sampler.near=1.5", "background=black"))
    assert config == RunConfig("b", "black", [64], SamplerConfig(1.5))


def test_an_empty_yaml_changes_nothing(tmp_path):
    assert load_config(RunConfig, write(tmp_path, ""), overrides=["name=a"]) == RunConfig("a")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("name: a\nsampler: {nera: 3}", ("run.yaml", "sampler.nera", "near")),
        ("nam: a", ("run.yaml", "nam", "name")),
        ("name: a\nsampler: {num_samples: many}", ("run.yaml", "sampler.num_samples", "many")),
        ("name: a\nbackground: blue", ("run.yaml", "background", "black")),
        ("sampler: {near: 3}", ("run.yaml", "name")),
        ("- name", ("run.yaml", "mapping", "list")),
        ("name: [", ("run.yaml", "yaml")),
    ],
)
def test_a_slip_in_a_file_is_named_in_one_line(tmp_path, text, parts):
    message = message_of(lambda: load_config(RunConfig, write(tmp_path, text)))
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("pair", "parts"),
    [
        ("sampler.nera=3", ("sampler.nera=3", "near")),
        ("sampler.near=wide", ("sampler.near=wide", "wide")),
        ("background", ("background", "key=value")),
    ],
)
def test_a_slip_in_a_pair_is_named_in_one_line(pair, parts):
    message = message_of(lambda: load_config(RunConfig, overrides=["name=a", pair]))
    assert all(part in message for part in parts), message


def test_a_file_that_is_not_there_or_is_no_text(tmp_path):
    assert "absent.yaml" in message_of(lambda: load_config(RunConfig, tmp_path / "absent.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "bytes.yaml" in message_of(lambda: load_config(RunConfig, tmp_path / "bytes.yaml"))


def test_a_contradiction_is_found_by_the_dataclass_itself():
    assert "above 0" in message_of(lambda: load_config(RunConfig, overrides=["name=a", "sampler.near=-1"]))


def test_a_program_turns_the_users_error_into_one_line_and_code_2(capsys):
    def fails(number: int) -> None:
        raise InputError(f"{number} is no good; give another")

    assert run_program(fails, ["--number", "3"]) == 2
    assert capsys.readouterr().err == "error: 3 is no good; give another\n"


def test_a_program_returns_its_functions_code_and_picks_by_name():
    def answer(number: int = 1) -> int:
        return number

    assert run_program(answer, []) == 1
    assert run_program({"answer": answer, "other": lambda: None}, ["answer", "--number", "7"]) == 7
    assert run_program({"answer": answer, "other": lambda: None}, ["other"]) == 0


def test_ctrl_c_is_code_130_and_a_bug_keeps_its_traceback():
    def interrupted() -> None:
        raise KeyboardInterrupt

    def buggy() -> None:
        raise ZeroDivisionError

    assert run_program(interrupted, []) == 130
    with pytest.raises(ZeroDivisionError):
        run_program(buggy, [])
