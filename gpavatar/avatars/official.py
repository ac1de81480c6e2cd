"""The authors' released GPAvatar weights in our modules: which switches they need, and what each entry is called here.

The layout is that of https://github.com/xg-chu/GPAvatar at 3ca7d44 (MIT licence). Every entry of the file must be
known: it is used, or ignored for a reason that stands here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpavatar.avatars.gpavatar import GPAvatar, GPAvatarConfig
from gpavatar.field.point_field import PointFieldConfig
from gpavatar.field.radiance import RadianceConfig
from gpavatar.media.files import check_file
from gpavatar.render.volume import VolumeConfig
from gpavatar.synthesis.style_unet import StyleUNetConfig
from gpavatar.synthesis.upsampler import UpsamplerConfig
from gpavatar.triplane.attention import AttentionConfig
from gpavatar.triplane.encoder import EncoderConfig
from gpavatar.types import InputError, one_line

NUM_VERTS, NUM_SHAPE, NUM_EXPRESSION = 5023, 100, 50  # of FLAME


def official_config() -> GPAvatarConfig:
    """The released behaviour: every switch that docs/reproduction.md lists."""
    return GPAvatarConfig(
        head="flame",
        encoder=EncoderConfig(
            net=StyleUNetConfig(in_size_px=512, out_size_px=256, in_dim=3, out_dim=96, noise="stored"),
            planes=("xy", "xz", "zy"),
            flipped=True,
        ),
        attention=AttentionConfig(weighting="softmax"),
        point_field=PointFieldConfig(
            octaves=4, code_of="direction", code_base=1.0, weight="inverse_square", normalised_over="pass"
        ),
        radiance=RadianceConfig(view_octaves=4, view_base=1.0, softplus_beta=10.0, widened_sigmoid=True),
        volume=VolumeConfig(step_length=False, importance="released", pixel_grid="corners"),
        upsampler=UpsamplerConfig(
            net=StyleUNetConfig(in_size_px=512, out_size_px=512, in_dim=32, out_dim=3, noise="stored"),
            widened_sigmoid=True,
        ),
        image_scale=255 / 256,
    )


@dataclass(frozen=True)
class Ignored:
    """Entries that no part of the forward pass reads."""

    pattern: str
    reason: str


IGNORED = (
    Ignored(r"percep_loss\..*", "AlexNet of the perceptual loss, used in training only"),
    Ignored(r"(style_tplane|up_renderer)\.toRGB\..*", "GFPGAN's intermediate images, never computed"),
)

# Theirs -> ours, by the first pattern that matches the whole name.
_UNET = (
    (r"conv_body_first\.0\.(.*)", r"stem.\1"),
    (r"conv_body_first\.1\.(.*)", r"shrink.\1"),
    (r"conv_body_first\.(weight|bias)", r"stem.\1"),
    (r"conv_body_down\.(.*)", r"down.\1"),
    (r"final_conv\.(.*)", r"bottom.\1"),
    (r"final_linear\.(.*)", r"to_style.\1"),
    (r"conv_body_up\.(.*)", r"up.\1"),
    (r"condition_(scale|shift)\.(.*)", r"\1.\2"),
    (r"stylegan_decoder\.constant_input\.weight", r"decoder.constant"),
    (r"stylegan_decoder\.noises\.(noise\d+)", r"decoder.\1"),
    (r"stylegan_decoder\.style_conv1\.(.*)", r"decoder.first.\1"),
    (r"stylegan_decoder\.to_rgb1\.(.*)", r"decoder.first_output.\1"),
    (r"stylegan_decoder\.to_rgbs\.(.*)", r"decoder.outputs.\1"),
)
_RULES = (
    (r"query_style_tplane", r"attention.query_planes"),
    (r"attn_module\.to_q_\.(.*)", r"attention.to_query.\1"),
    (r"attn_module\.to_k_\.(.*)", r"attention.to_key.\1"),
    (r"nerf_mlp\.points_querier\.points_feature\.weight", r"point_field.features"),
    (r"nerf_mlp\.points_querier\.point_layers\.0\.(.*)", r"point_field.first.\1"),
    (r"nerf_mlp\.points_querier\.point_layers\.2\.(.*)", r"point_field.second.\1"),
    (r"nerf_mlp\.feature_layers\.(.*)", r"radiance.shared.\1"),
    (r"nerf_mlp\.density_layers\.0\.(.*)", r"radiance.density.\1"),
    (r"nerf_mlp\.rgb_layers\.(.*)", r"radiance.colour.\1"),
)
_INSIDE = (  # names within the layers of the U-Net and its decoder
    (r"\.conv1\.", r".first."),
    (r"\.conv2\.", r".second."),
    (r"\.modulated_conv\.", r".conv."),
    (r"(decoder\.(?:first|grow\.\d+|refine\.\d+))\.weight$", r"\1.noise_strength"),
)


def our_name(theirs: str) -> str | None:
    """What an entry of the released `state_dict` is called here; None where it is unknown or ignored."""
    for prefix, ours in (("style_tplane.", "encoder.net."), ("up_renderer.", "upsampler.net.")):
        if theirs.startswith(prefix):
            inner = _unet_name(theirs.removeprefix(prefix))
            return inner and ours + inner
    return _first_match(theirs, _RULES)


def _unet_name(theirs: str) -> str | None:
    if found := re.fullmatch(r"stylegan_decoder\.style_mlp\.(\d+)\.(.*)", theirs):
        return f"decoder.style_mlp.layers.{int(found[1]) // 2}.{found[2]}"  # 1, 3, 5 ...: between lie activations
    if found := re.fullmatch(r"stylegan_decoder\.style_convs\.(\d+)\.(.*)", theirs):
        number = int(found[1])
        name = f"decoder.{('grow', 'refine')[number % 2]}.{number // 2}.{found[2]}"
    else:
        name = _first_match(theirs, _UNET)
    for pattern, replacement in _INSIDE:
        name = name and re.sub(pattern, replacement, name)
    return name


def _first_match(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return None


def read_released(path: str | Path) -> dict[str, Tensor]:
    """The `state_dict` in a released checkpoint. Only tensors and plain values are read; no code in it can run.

    Raises InputError where the file is missing, unsafe, damaged, or holds something else.
    """
    path = Path(path)
    check_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # at damage PyTorch's reader raises whatever it makes it
        line = one_line(error, 120)
        raise InputError(
            f"{path}: not a checkpoint that can be read safely ({line}); get one_model.ckpt again"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(map(_is_plain, state.values())):
        raise InputError(f"{path}: holds no state_dict of tensors; give GPAvatar's one_model.ckpt")
    return state


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)


def convert(state: dict[str, Tensor], where: str = "checkpoint") -> dict[str, Tensor]:
    """The released `state_dict` in our names and shapes, for `GPAvatar(official_config(), ...)`.

    Strict: raises InputError for an entry that is neither known nor ignored for a reason, one that is missing, and one
    of another shape.
    """
    with torch.device("meta"):
        expected = GPAvatar(official_config(), NUM_VERTS, 1).state_dict()
    out = {}
    for theirs, value in state.items():
        if any(re.fullmatch(one.pattern, theirs) for one in IGNORED):
            continue
        if theirs == "attn_module.scale":
            _check_scale(value, where)
            continue
        ours = our_name(theirs)
        if ours is None or ours not in expected:
            raise InputError(f"{where}: entry {theirs} is unknown; give GPAvatar's one_model.ckpt (3ca7d44)")
        if _axes(value) != _axes(expected[ours]):
            shape, wanted = tuple(value.shape), tuple(expected[ours].shape)
            raise InputError(f"{where}: entry {theirs} is {shape}, not {wanted}; give GPAvatar's one_model.ckpt")
        out[ours] = value.reshape(expected[ours].shape).float()
    if missing := sorted(expected.keys() - out.keys()):
        raise InputError(
            f"{where}: lacks what we call {missing[0]} ({len(missing)} entries in all); the file is cut off"
        )
    return out


def _axes(value: Tensor) -> list[int]:
    """The shape without its axes of length 1, which the two layouts put in different places."""
    return [size for size in value.shape if size != 1]


def _check_scale(value: Tensor, where: str) -> None:
    """A parameter that was never trained: 1/√32, which our attention computes."""
    if not torch.allclose(value.float(), torch.tensor(32**-0.5), rtol=1e-4):
        raise InputError(
            f"{where}: attn_module.scale is {float(value.flatten()[0])}, not 32^-0.5; another model's file"
        )
