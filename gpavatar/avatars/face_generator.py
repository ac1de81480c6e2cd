"""G_face: the drawn texture becomes planes of the face, its holes filled resolution by resolution (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gpavatar.face.plane_views import VIEWS, FaceViews, ViewMaps
from gpavatar.synthesis.style_generator import Level, StyleGenerator, StyleGeneratorConfig
from gpavatar.triplane.face_planes import FacePlane


@dataclass(frozen=True)
class NeuralTexture:
    """F_tex, features on the atlas: at paper size 32 x 32², and 512 x 32², 512 x 64², 256 x 128²."""

    image: Float[Tensor, "batch out coarse_px coarse_px"]  # G_tex's image at the coarse resolution
    coarse: Float[Tensor, "batch coarse_dim coarse_px coarse_px"]
    middle: Float[Tensor, "batch middle_dim middle_px middle_px"]
    fine: Float[Tensor, "batch fine_dim fine_px fine_px"]

    @staticmethod
    def of(levels: Sequence[Level], sizes: tuple[int, int, int]) -> NeuralTexture:
        """What a generator has at these resolutions."""
        by_size = {level.feats.shape[-1]: level for level in levels}
        return NeuralTexture(by_size[sizes[0]].image, *(by_size[size].feats for size in sizes))

    def plus(self, offsets: NeuralTexture) -> NeuralTexture:
        """F_tex_w + F_tex_off: E_tex's offsets, one for each part."""
        return NeuralTexture(
            self.image + offsets.image,
            self.coarse + offsets.coarse,
            self.middle + offsets.middle,
            self.fine + offsets.fine,
        )


class FaceGenerator(nn.Module):
    """A style generator whose features and image are, where the face's surface is drawn, replaced by the texture's.

    Off the surface, in the open mouth above all, they remain its own: made from all that surrounds them, and again at
    every resolution. Each plane is generated from a constant of its own by the same layers; two views of one plane are
    averaged where both see the face.
    """

    def __init__(
        self, config: StyleGeneratorConfig, plane_dim: int, sizes: tuple[int, int, int], views: tuple[str, ...]
    ):
        super().__init__()
        assert set(sizes) <= set(config.sizes[1:-1]), "the texture enters where something finer follows"
        self.sizes = sizes
        planes = dict.fromkeys(VIEWS[name].plane for name in views)
        self.views = {plane: [n for n, name in enumerate(views) if VIEWS[name].plane == plane] for plane in planes}
        self.generator = StyleGenerator(config, plane_dim, num_constants=len(self.views))

    def forward(
        self, styles: Float[Tensor, "batch layer style"], texture: NeuralTexture, views: FaceViews
    ) -> tuple[FacePlane, ...]:
        """The face in each plane that is looked at; alpha is its surface with the holes filled, at the fine size."""
        found = []
        for constant, (plane, own) in enumerate(self.views.items()):
            coarse, middle, fine = (maps.only(own) for maps in (views.coarse, views.middle, views.fine))
            drawn = {
                self.sizes[0]: Drawn.of(coarse, texture.coarse, texture.image),
                self.sizes[1]: Drawn.of(middle, texture.middle),
                self.sizes[2]: Drawn.of(fine, texture.fine),
            }

            def edit(level: Level, drawn: dict[int, Drawn] = drawn) -> Level:
                there = drawn.get(level.feats.shape[-1])
                return there.over(level) if there else level

            image = self.generator(styles, constant=constant, edit=edit)[-1].image
            found.append(FacePlane(plane, image, fine.filled.any(1).to(image.dtype)))
        return tuple(found)


@dataclass(frozen=True)
class Drawn:
    """The texture as a plane sees it at one resolution."""

    surface: Bool[Tensor, "batch 1 size size"]
    feats: Float[Tensor, "batch channel size size"]
    image: Float[Tensor, "batch out size size"] | None

    @staticmethod
    def of(maps: ViewMaps, feats: Tensor, image: Tensor | None = None) -> Drawn:
        """The mean of the views that see the surface."""
        count = maps.surface.sum(1)

        def mean(texture: Tensor) -> Tensor:
            return maps.drawn(texture).sum(1) / count.clamp_min(1)

        return Drawn(count > 0, mean(feats), mean(image) if image is not None else None)

    def over(self, level: Level) -> Level:
        """The level with the face drawn into it."""
        image = level.image if self.image is None else torch.where(self.surface, self.image, level.image)
        return Level(torch.where(self.surface, self.feats, level.feats), image)
