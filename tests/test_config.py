"""Strict configs: what is asked for arrives typed, and every slip is named."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from tyro.conf import Positional

from gpavatar.config import MISSING, load_config, run_program
from gpavatar.limits import MAX_YAML_BYTES
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


@pytest.mark.parametrize("time", ["27:30", "5:00", "0:01", "1:02:03"])
def test_a_time_is_text(time):
    """YAML would read a number of base 60."""
    assert load_config(RunConfig, overrides=[f"name={time}"]).name == time


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


def reject(program, argv: list[str], capsys) -> str:
    """What a program says to a command line that it does not take: one line, code 2."""
    assert run_program(program, argv, prog="tool") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "\u2502" not in said
    return said


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["a", "--expresion", "x"], ("unknown option --expresion", "did you mean --expression?", "tool --help")),
        (["a", "--zzzzzz"], ("unknown option --zzzzzz", "tool --help")),
        (["a", "--expression"], ("--expression", "value")),
        (["a", "--expression", "sideways"], ("sideways", "absolute", "relative")),
        (["a", "--size", "wide"], ("--size", "wide")),
        (["a", "b"], ("b",)),
        ([], ("name",)),
    ],
)
def test_a_slip_on_the_command_line_is_one_line(argv, parts, capsys):
    def program(name: Positional[str], size: int = 1, expression: Literal["absolute", "relative"] = "absolute") -> None:
        raise AssertionError("must not run")

    said = reject(program, argv, capsys)
    assert all(part in said for part in parts), said


def test_a_wrong_command_is_named_with_the_nearest(capsys):
    program = {"fetch": lambda: None, "list": lambda: None}
    assert "did you mean fetch?" in reject(program, ["ftech"], capsys)
    assert "there are: fetch, list" in reject(program, ["zzz"], capsys)
    reject(program, [], capsys)


def test_help_goes_out_as_it_is(capsys):
    with pytest.raises(SystemExit) as caught:
        run_program(lambda: None, ["--help"], prog="tool")
    assert not caught.value.code and "usage: tool" in capsys.readouterr().out


def test_sigterm_ends_a_program_as_ctrl_c_does(capsys):
    def terminated() -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert run_program(terminated, [], prog="tool") == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nsizes: &s [1, 2]\nsampler: *s", "alias"),  # aliases of aliases double with every line
        ("sizes: " + "[" * 5000, "nested"),
        ("name: " + "9" * 5000, "not valid yaml"),
        ("name: 2001-99-99", "not valid yaml"),
        ("name: " + "x" * (MAX_YAML_BYTES + 1), "1 MB"),
        ("name: ${name}", "name"),
        ("name: ${oc.env", "name"),
        ("name: !!python/object/apply:os.mkdir [touched]", "not valid yaml"),
    ],
)
def test_yaml_that_unfolds_without_end_or_makes_no_sense(tmp_path, text, said):
    message = message_of(lambda: load_config(RunConfig, write(tmp_path, text)))
    assert "run.yaml" in message and said in message and len(message) < 500


@pytest.mark.parametrize("pair", ["name=[", "name=&a [*a]", "sizes=" + "[" * 5000, "=", "a=b=c", "name=" + "9" * 5000])
def test_pairs_that_make_no_sense(pair):
    message_of(lambda: load_config(RunConfig, overrides=[pair]))
