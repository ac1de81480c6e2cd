"""From text to typed values: yaml files and `key=value` pairs, and the command line of a program.

A config is a frozen dataclass that stands above the class it configures and holds the defaults; a yaml file holds only
what differs. A key that no field bears stops the run and names the nearest right one.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpavatar.interrupt import heard_by_the_program
from gpavatar.limits import MAX_YAML_BYTES, MAX_YAML_DEPTH
from gpavatar.types import GpavatarError, InputError, InputWarning, one_line

__all__ = ["MISSING", "Program", "did_you_mean", "load_config", "parse_config", "run_program", "warnings_in_lines"]

TIME = re.compile(r"\d+(:\d+)+")  # 27:30 is text; YAML takes it for a number of base 60
MAX_MESSAGE = 1500  # letters; a message may quote a file
T = TypeVar("T")
Program = Callable[..., int | None] | dict[str, Callable[..., int | None]]


def load_config(schema: type[T], *files: str | Path, overrides: Sequence[str] = ()) -> T:
    """The dataclass `schema`, its defaults replaced by each yaml in turn and then by each `key.sub=value`.

    Raises InputError for a file that cannot be read or is no yaml mapping, an unknown key, a value of the wrong type,
    and a field without default (`MISSING`) that nothing sets; the message names the file or pair and the key.
    """
    config = OmegaConf.structured(schema)
    for file in files:
        config = _merge(config, _read_mapping(file), str(file))
    for pair in overrides:
        if "=" not in pair:
            raise InputError(f"{pair}: not of the form key=value")
        key, _, value = pair.partition("=")
        _yaml(value, pair)
        config = _merge(config, [f"{key}='{value}'" if TIME.fullmatch(value) else pair], pair)
    return _as_object(config, " + ".join(map(str, files)) or schema.__name__)


def parse_config(schema: type[T], text: str, where: str) -> T:
    """The dataclass `schema` from yaml that another file carries: as `load_config`, but nothing in it is looked up."""
    if len(text) > MAX_YAML_BYTES or "${" in text:
        raise InputError(f"{where}: too long, or refers to something outside; get the file again")
    content = _yaml(text, where) or {}
    if not isinstance(content, dict):
        raise InputError(f"{where}: must be a mapping of keys to values, is a {type(content).__name__}")
    return _as_object(_merge(OmegaConf.structured(schema), content, where), where)


def _as_object(config, where: str):
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(f"{where}: {_one_line(error)}") from error


def run_program(program: Program, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Call a program's typed function, or one of several by its name, with the command line `argv` (None: sys.argv).

    Types, defaults and the docstring of a function become its options and `--help` (tyro). Returns the exit code: what
    the function returns (None is 0), 2 with one line on stderr for an error the user can mend, 130 after Ctrl-C, and
    the same after SIGTERM, which stops a program in the same orderly way.
    """
    heard_by_the_program()
    try:
        with _sigterm_as_ctrl_c(), warnings_in_lines():
            return _parsed(program, sys.argv[1:] if argv is None else argv, prog or Path(sys.argv[0]).name)() or 0
    except GpavatarError as error:
        print(f"error: {one_line(error, MAX_MESSAGE)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing unfinished was left", file=sys.stderr)
        return 130


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """The end of a complaint about an unknown `word`: the nearest of the `known` ones, or all where none is near."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _parsed(program: Program, argv: Sequence[str], prog: str) -> Callable[[], int | None]:
    """The call that the command line asks for. InputError (one line) instead of the box that tyro draws."""

    def deferred(function: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
        return functools.wraps(function)(lambda *args, **options: lambda: function(*args, **options))

    if isinstance(program, dict) and argv and not argv[0].startswith("-") and argv[0] not in program:
        raise InputError(f"{prog}: no command is called {argv[0]!r}; {did_you_mean(argv[0], list(program))}")
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            if isinstance(program, dict):
                commands = {name: deferred(function) for name, function in program.items()}
                return tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog=prog)
            return tyro.cli(deferred(program), args=argv, prog=prog)
    except SystemExit as end:
        if end.code in (0, None):  # --help
            raise
        raise InputError(f"{_complaint(drawn.getvalue())}; see {prog} --help") from end


def _complaint(box: str) -> str:
    """What tyro's box says, in one line, with the option that it takes for the meant one.

    Its frame has a title; where the terminal has no such characters, the title is underlined instead.
    """
    framed = box.startswith("\u256d")
    lines = [line.strip("\u2502 ") for line in box.splitlines()[1 if framed else 2 :]]
    rules = [number for number, line in enumerate(lines) if line and not line.strip("-\u2500\u2570\u256f")]
    first = " ".join(lines[: rules[0]] if rules else lines).rstrip(".")
    unknown = re.match(r"Unrecognized options: (\S+?)(,|$)", first)
    if not unknown:
        return first
    meant = re.search(r"Perhaps you meant.*?(--[\w-]+)", " ".join(lines))
    return f"unknown option {unknown[1]}" + (f"; did you mean {meant[1]}?" if meant else "")


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[list[str]]:
    """Within the block every `InputWarning`, of any thread, is one line on stderr; gives those of the block so far."""
    said: list[str] = []
    shown_before = warnings.showwarning

    def show(message, category, *where) -> None:
        if not issubclass(category, InputWarning):
            return shown_before(message, category, *where)
        said.append(str(message))
        print(f"warning: {one_line(message, MAX_MESSAGE)}", file=sys.stderr)

    warnings.showwarning = show
    try:
        yield said
    finally:
        warnings.showwarning = shown_before


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt, so that what is half-written is cleared away or kept whole."""
    if threading.current_thread() is not threading.main_thread():  # only there may signals be arranged
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_mapping(file: str | Path) -> dict:
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read(MAX_YAML_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from error
    if len(text) > MAX_YAML_BYTES:
        raise InputError(f"{file}: more than {MAX_YAML_BYTES >> 20} MB, which no settings need; give the right file")
    content = _yaml(text, str(file))
    if not isinstance(content or {}, dict):
        raise InputError(f"{file}: must be a mapping of keys to values, is a {type(content).__name__}")
    return content or {}


def _yaml(text: str, where: str):
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few aliases of aliases unfold to more than any memory holds
                raise InputError(f"{where}: holds a yaml alias (*name); write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise InputError(f"{where}: nested more than {MAX_YAML_DEPTH} deep; give the right file")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid yaml: {one_line(error)}") from error
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise InputError(f"{where}: not valid yaml: {one_line(error)}") from error


def _merge(config, changes: dict | list[str], where: str):
    try:
        return OmegaConf.merge(config, OmegaConf.from_dotlist(changes) if isinstance(changes, list) else changes)
    except TypeError as error:  # a list where a mapping belongs
        raise InputError(f"{where}: {one_line(error)}") from error
    except OmegaConfBaseException as error:
        raise InputError(f"{where}: {_one_line(error)}") from error


def _one_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line, led by the full key that the lines after it hold."""
    message = one_line(str(error).splitlines()[0])
    return f"{one_line(error.full_key)}: {message}" if error.full_key else message
