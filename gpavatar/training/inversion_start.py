"""What the training of encoders begins with: weights of a prior, of E_latent, of an earlier stage."""

from __future__ import annotations

from torch import nn

from gpavatar.avatars.animatable_prior import PriorConfig
from gpavatar.avatars.checkpoint import Weights, read_weights
from gpavatar.avatars.invertavatar import InvertAvatar, InvertAvatarConfig
from gpavatar.synthesis.residual_trunk import TrunkConfig
from gpavatar.training.inversion_config import StartConfig
from gpavatar.types import InputError, one_line

NEW = ".fusions."  # what brings frames together: an earlier stage may not have had it


def begin_with(net: InvertAvatar, start: StartConfig) -> None:
    """Fill the network from the files that are named. InputError for one of another kind or size."""
    if start.prior:
        _fill(net.prior, read_weights(start.prior, PriorConfig), "invertavatar_prior")
    if start.latent:
        _fill(net.latent, read_weights(start.latent, TrunkConfig), "invertavatar_latent")
    if start.weights:
        _fill(net, read_weights(start.weights, InvertAvatarConfig), "invertavatar")


def _fill(module: nn.Module, weights: Weights, method: str) -> None:
    if weights.info.method != method:
        raise InputError(f"{weights.path}: holds weights of {weights.info.method}, not of {method}; give another file")
    own = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    tensors = {name: tensor for name, tensor in weights.tensors.items() if NEW not in name or name in own}
    try:
        missing, strange = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        line = one_line(" ".join(str(error).splitlines()[1:2]))
        raise InputError(f"{weights.path}: has other sizes than the config ({line}); make them equal") from error
    lacking = [name for name in missing if NEW not in name] + list(strange)
    if lacking:
        raise InputError(f"{weights.path}: and the config differ in {lacking[0]}; make them equal")
