"""Pictures of an image and of what an image method makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .bev import draw_spectrum, new_figure
from .colours import pca_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmjepa.apis.images import Image

HIDDEN = 128  # grey of patches that aren't shown
BLOCK_COLOURS = ('#d9622b', '#1f5fa8', '#3a8f4d', '#8a4fa8', '#c9a227', '#3fa6a6')


@dataclass
class ImageViews:
    """What the pictures of one image show; h x w patches of p pixels.

    Attributes:
        pixels: (h p, w p, 3) uint8.
        tokens: (h, w, D) embedding of the whole image.
        context: (h, w) bool, patches that the context encoder saw.
        blocks: (M, h, w) bool, the target blocks.
        prediction, target: (U, D), of the different patches in the blocks, ascending; a patch of
            several blocks has the mean of its predictions.
        title: Of the figure.
    """

    pixels: NDArray[np.uint8]
    tokens: Tensor
    context: Tensor
    blocks: Tensor
    prediction: Tensor
    target: Tensor
    title: str = ''

    @property
    def patch(self) -> int:
        """Side of a patch in pixels, p."""
        return self.pixels.shape[0] // self.tokens.shape[0]

    @property
    def hidden(self) -> Tensor:
        """(h, w) bool, patches in any target block."""
        return self.blocks.any(0)

    @property
    def similarity(self) -> Tensor:
        """(U, U) cosine of predictions and targets, both less the mean of the targets.

        Without it, what all targets share would hide what tells them apart.
        """
        mean = self.target.mean(0)
        return F.normalize(self.prediction - mean, dim=1) @ F.normalize(self.target - mean, dim=1).T

    @property
    def nearest(self) -> Tensor:
        """(U,) number of the target that is nearest to each prediction."""
        return self.similarity.argmax(1)


def _paint(mask_hw: Tensor, patch: int) -> NDArray[np.bool_]:
    """Patches to pixels."""
    return mask_hw.numpy().repeat(patch, 0).repeat(patch, 1)


def _show(ax: Axes, pixels: NDArray[Any], title: str) -> None:
    ax.imshow(pixels, interpolation='nearest')
    ax.set(title=title, xticks=[], yticks=[])


def draw_blocks(ax: Axes, views: ImageViews) -> None:
    """The image with the outlines of the target blocks."""
    _show(ax, views.pixels, f'Input and {len(views.blocks)} target blocks')
    for number, block in enumerate(views.blocks):
        outline = np.pad(_paint(block, views.patch), 1).astype(float)
        height, width = outline.shape
        ax.contour(
            np.arange(width) - 1, np.arange(height) - 1, outline, [0.5], linewidths=2,
            colors=[BLOCK_COLOURS[number % len(BLOCK_COLOURS)]],
        )  # fmt: skip


def draw_context(ax: Axes, views: ImageViews) -> None:
    """What the context encoder saw."""
    seen = np.where(_paint(views.context, views.patch)[..., None], views.pixels, HIDDEN)
    share = float(views.context.float().mean())
    _show(ax, seen.astype(np.uint8), f'Context: {share:.0%} of the patches')


def draw_token_components(ax: Axes, views: ImageViews) -> None:
    """First three principal components of the patch tokens."""
    colours = pca_colours(views.tokens.permute(2, 0, 1))
    _show(ax, colours.numpy(), 'Patch tokens: principal components 1-3 as RGB')


def nearest_patches(views: ImageViews) -> NDArray[np.uint8]:
    """(h p, w p, 3): in the blocks, the patch whose target is nearest to the prediction."""
    p = views.patch
    rows, columns = views.hidden.nonzero(as_tuple=True)
    keep = _paint(views.context, p)[..., None]
    picture = np.where(keep, views.pixels, HIDDEN).astype(np.uint8)
    for place, chosen in enumerate(views.nearest.tolist()):
        (top, left), (y, x) = (
            (int(rows[i]) * p, int(columns[i]) * p) for i in (place, chosen)
        )  # fmt: skip
        picture[top : top + p, left : left + p] = views.pixels[y : y + p, x : x + p]
    return picture


def draw_predictions(ax: Axes, views: ImageViews) -> None:
    """The blocks, filled with the patches that the predictions are nearest to."""
    count = len(views.prediction)
    own = float((views.nearest == torch.arange(count)).float().mean())
    title = f'Prediction as nearest of {count} patches: its own {own:.0%}, chance {1 / count:.0%}'
    _show(ax, nearest_patches(views), title)


def draw_token_agreement(ax: Axes, views: ImageViews) -> None:
    """Cosine of prediction and target, patch by patch."""
    cosines = views.similarity.diagonal()
    image = np.full(tuple(views.hidden.shape), np.nan)
    image[views.hidden.numpy()] = cosines.numpy()
    ax.set_facecolor('#f4f4f4')
    shown = ax.imshow(
        np.ma.masked_invalid(image), interpolation='nearest', cmap='RdYlGn', vmin=-1, vmax=1
    )
    ax.figure.colorbar(shown, ax=ax, shrink=0.8)
    ax.set(
        title=f'cos(prediction, target), centred: mean {float(cosines.mean()):.3f}',
        xticks=[], yticks=[],
    )  # fmt: skip


def image_figure(views: ImageViews) -> Figure:
    """Six panels: blocks, context, components; prediction, agreement, spectrum."""
    figure = new_figure(17.5, 11.5)
    axes = figure.subplots(2, 3)
    draw_blocks(axes[0, 0], views)
    draw_context(axes[0, 1], views)
    draw_token_components(axes[0, 2], views)
    draw_predictions(axes[1, 0], views)
    draw_token_agreement(axes[1, 1], views)
    draw_spectrum(axes[1, 2], views.tokens.flatten(0, 1), 'Spectrum of the patch tokens')
    if views.title:
        figure.suptitle(views.title)
    return figure


@torch.no_grad()
def view_image(model: Any, image: Image, seed: int = 0, title: str = '') -> ImageViews:
    """Run an image method on one image.

    Args:
        model: From ``mmjepa.apis.init_model``; has ``inspect`` with masks of blocks.
        image: A file, or (H, W, 3) uint8, red first; its centre is taken.
        seed: Of the mask.
        title: Of the figure.

    Returns:
        :class:`ImageViews`, tensors on the CPU.

    Raises:
        TypeError: If the model takes no images.
        ValueError: If the image is unusable.
    """
    from mmjepa.apis.images import image_inputs

    inputs = image_inputs(model, image, seed)
    preprocessor = model.data_preprocessor
    pixels = (inputs['images'] * preprocessor.std + preprocessor.mean)[0].round().clamp(0, 255)
    seen = model.inspect(inputs)
    grid, masks = seen['grid'], seen['masks']
    count = grid[0] * grid[1]

    def as_map(ids: Tensor) -> Tensor:
        empty = torch.zeros(*ids.shape[:-1], count, dtype=torch.bool, device=ids.device)
        return empty.scatter(-1, ids, True).unflatten(-1, grid).cpu()

    places = masks.targets[0].flatten()
    width = seen['prediction'].shape[-1]
    sums = [
        torch.zeros(count, width, device=places.device).index_add(
            0, places, seen[name][0].flatten(0, 1).float()
        )
        for name in ('prediction', 'target')
    ]
    number = torch.bincount(places, minlength=count)[:, None]
    prediction, target = ((s / number)[number[:, 0] > 0].cpu() for s in sums)
    return ImageViews(
        pixels=pixels.permute(1, 2, 0).byte().cpu().numpy(),
        tokens=model.extract_feat(inputs)[0].float().cpu().unflatten(0, grid),
        context=as_map(masks.context[0]),
        blocks=as_map(masks.targets[0]),
        prediction=prediction,
        target=target,
        title=title,
    )
