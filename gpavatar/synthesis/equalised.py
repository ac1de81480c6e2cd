"""The equalised learning rate of StyleGAN (Karras et al. 2018), had from the optimiser instead of from the layers.

There a weight is stored with unit variance and multiplied by c = gain / √(inputs) when it is used, so that all weights
learn at the same relative speed. Adam's step does not depend on the gradient's scale: a step of η on the stored weight
is a step of c η on the used one. Layers that hold the used weight therefore learn in the same way with the rate c η.
(To the rounding, and as long as gradients are far above Adam's ε. A test holds the two together.)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn


def equalised_groups(
    net: nn.Module, lr: float, factor: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Adam's parameter groups: rate · factor(name) / √inputs for what is multiplied with inputs, rate · factor(name)
    for biases, constants and noise strengths. `factor` as StyleGAN2's lr_multiplier: 0.01 for its mapping network."""
    groups = defaultdict(list)
    learning = ((name, parameter) for name, parameter in net.named_parameters() if parameter.requires_grad)
    for name, parameter in learning:
        weight = name.rpartition(".")[2] == "weight" and parameter.ndim > 1
        inputs = parameter[0].numel() if weight else 1
        groups[factor(name) / math.sqrt(inputs)].append(parameter)
    return [{"params": parameters, "lr": lr * share} for share, parameters in groups.items()]


def unit_normal(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The same layer with weights of variance 1 / inputs, and no bias yet: outputs as large as inputs."""
    nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
