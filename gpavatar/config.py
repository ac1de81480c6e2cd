"""From text to typed values: yaml files and `key=value` pairs, and the command line of a program.

A config is a frozen dataclass that stands above the class it configures and holds the defaults; a yaml file holds only
what differs. A key that no field bears stops the run and names the nearest right one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gpavatar.types import GpavatarError, InputError

__all__ = ["MISSING", "Program", "load_config", "run_program"]

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
        config = _merge(config, OmegaConf.from_dotlist([pair]), pair)
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise InputError(f"{' + '.join(map(str, files)) or schema.__name__}: {_one_line(error)}") from error


def run_program(program: Program, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Call a program's typed function, or one of several by its name, with the command line `argv` (None: sys.argv).

    Types, defaults and the docstring of a function become its options and `--help` (tyro). Returns the exit code: what
    the function returns (None is 0), 2 with one line on stderr for an error the user can mend, 130 after Ctrl-C.
    """
    try:
        if isinstance(program, dict):
            return tyro.extras.subcommand_cli_from_dict(program, args=argv, prog=prog) or 0
        return tyro.cli(program, args=argv, prog=prog) or 0
    except GpavatarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _read_mapping(file: str | Path) -> dict:
    try:
        content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content or {}, dict):
        raise InputError(f"{file}: must be a mapping of keys to values, is a {type(content).__name__}")
    return content or {}


def _merge(config, changes, where: str):
    try:
        return OmegaConf.merge(config, changes)
    except OmegaConfBaseException as error:
        raise InputError(f"{where}: {_one_line(error)}") from error


def _one_line(error: OmegaConfBaseException) -> str:
    """OmegaConf's first line, led by the full key that the lines after it hold."""
    message = str(error).splitlines()[0]
    return f"{error.full_key}: {message}" if error.full_key else message
