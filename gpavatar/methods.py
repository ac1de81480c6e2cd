"""By what names methods are found, and where they compute: a name of the table, or a file of weights."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch

from gpavatar.assets import shipped_weights
from gpavatar.avatars.base import Avatar, HasPrecision
from gpavatar.types import InputError

DrawnIn = Literal["exact", "fast"]  # of the precisions of `gpavatar.field.twin`, those with fused kernels

METHODS = {  # name -> module:class
    "textured_mesh": "gpavatar.avatars.textured_mesh:TexturedMesh",
    "gpavatar": "gpavatar.avatars.gpavatar_method:GPAvatarMethod",
    "invertavatar": "gpavatar.avatars.invertavatar_method:InvertAvatarMethod",
    "gpavatar_lite": "gpavatar.avatars.gpavatar_lite_method:GPAvatarLiteMethod",
}
WEIGHTS_SUFFIX = ".safetensors"  # a model that is named by such a file is the learned method whose weights it holds
DEFAULT_METHOD = "gpavatar_lite"  # what comes with the project and draws best (docs/reproduction.md)


def load_model(name: str = DEFAULT_METHOD, device: str = "auto", precision: DrawnIn = "exact") -> Avatar:
    """The method called `name`, ready on `device` ("auto", "cpu", "cuda", "cuda:1").

    A learned method is named by its weights, FILE.safetensors, where none come with the project; it draws in float32,
    or ("fast") with products of bfloat16 where the device has them. InputError for an unknown name or an unfit file.
    """
    return drawing(method_called(name)(device=choose_device(device)), precision)


def drawing(model: Avatar, precision: DrawnIn) -> Avatar:
    """The same, drawing in this precision where it has a choice."""
    if isinstance(model, HasPrecision):
        model.precision = precision
    return model


def method_called(name: str) -> Callable[..., Avatar]:
    """What makes the method on a `device=`; with its weights, where it is learned. InputError for an unknown name."""
    if name.endswith(WEIGHTS_SUFFIX):
        from gpavatar.avatars.checkpoint import read_info

        return partial(method_called(read_info(name).method), weights=name)
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(METHODS)}"
        raise InputError(f"no method is called {name!r}; {hint}")
    module, _, class_name = METHODS[name].partition(":")
    method, weights = getattr(importlib.import_module(module), class_name), shipped_weights(name)
    return method if weights is None else partial(method, weights=weights)


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the GPU where there is one. InputError for one that cannot be used here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not name.startswith("cuda"):
        raise InputError(f"no device is called {name!r}; choose auto, cpu or cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name}: this machine or this build of torch has no CUDA; choose auto or cpu")
    return torch.device(name)
