"""Pictures of a LiDAR sweep seen from above and of what a model makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmjepa.evaluation.functional import covariance_spectrum, effective_rank
from mmjepa.models.masks.bev import MASKED_EMPTY, MASKED_OCCUPIED

from .colours import pca_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmjepa.apis.sweeps import Sweep

# visible occupied, masked occupied, visible empty, masked empty
MASK_NAMES = ('visible, occupied', 'masked, occupied', 'visible, empty', 'masked, empty')
MASK_COLOURS = ('#1f5fa8', '#d9622b', '#e4ebf3', '#f8dfd0')
GRID_COLOUR = '#d0d0d0'


@dataclass
class SweepViews:
    """What the pictures of one sweep show; h x w cells.

    Attributes:
        points: (N, >=3) float, x y z in metres.
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max.
        bev: (C, h, w) embedding of the whole cloud.
        mask_classes: (h, w) uint8, 0 visible occupied, 1 masked occupied, 2 visible empty, 3 masked
            empty.
        prediction, target: (C, h, w), L2-normalised over channels.
        title: Of the figure.
    """

    points: NDArray[Any]
    point_cloud_range: tuple[float, ...]
    bev: Tensor
    mask_classes: Tensor
    prediction: Tensor
    target: Tensor
    title: str = ''

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """x_min, x_max, y_min, y_max in metres."""
        low_x, low_y, _, high_x, high_y, _ = self.point_cloud_range
        return low_x, high_x, low_y, high_y

    @property
    def occupied(self) -> Tensor:
        """(h, w) bool, cells with points."""
        return self.mask_classes <= MASKED_OCCUPIED

    @property
    def unit_bev(self) -> Tensor:
        """(C, h, w) embedding, L2-normalised over channels as the loss sees it."""
        return F.normalize(self.bev.float(), dim=0)

    @property
    def cosine(self) -> Tensor:
        """(h, w) cosine of prediction and target."""
        return (
            F.normalize(self.prediction.float(), dim=0) * F.normalize(self.target.float(), dim=0)
        ).sum(0)


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that draws without a display and leaves pyplot's state alone.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'matplotlib>=3.8'") from error
    figure = Figure(figsize=(width, height), layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _metres(ax: Axes, views: SweepViews, title: str) -> None:
    low_x, high_x, low_y, high_y = views.extent
    ax.set(
        title=title, xlabel='x, ahead (m)', ylabel='y, left (m)', aspect='equal',
        xlim=(low_x, high_x), ylim=(low_y, high_y),
    )  # fmt: skip


def draw_points(ax: Axes, views: SweepViews) -> None:
    """The cloud from above, coloured by height."""
    low, high = np.array(views.point_cloud_range[:3]), np.array(views.point_cloud_range[3:])
    points = views.points
    points = points[((points[:, :3] >= low) & (points[:, :3] < high)).all(1)]
    points = points[np.argsort(points[:, 2], kind='stable')]  # high points on top
    dots = ax.scatter(
        points[:, 0], points[:, 1], c=points[:, 2], s=1.2, linewidths=0, cmap='viridis',
        vmin=low[2], vmax=high[2], rasterized=True,
    )  # fmt: skip
    ax.figure.colorbar(dots, ax=ax, label='height z (m)', shrink=0.8)
    _metres(ax, views, f'Cloud from above: {len(points):,} points in range')


def draw_mask(ax: Axes, views: SweepViews) -> None:
    """The four kinds of cells."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    classes = views.mask_classes.cpu().numpy()
    ax.imshow(
        classes, origin='lower', extent=views.extent, interpolation='nearest',
        cmap=ListedColormap(MASK_COLOURS), norm=BoundaryNorm(np.arange(5) - 0.5, 4),
    )  # fmt: skip
    counts = np.bincount(classes.reshape(-1), minlength=4)
    handles = [
        Patch(facecolor=colour, edgecolor='grey', label=f'{name} ({count:,})')
        for name, colour, count in zip(MASK_NAMES, MASK_COLOURS, counts, strict=True)
    ]
    ax.legend(
        handles=handles, loc='upper center', bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=8,
        frameon=False,
    )  # fmt: skip
    share = counts[MASKED_OCCUPIED] / max(counts[:2].sum(), 1)
    _metres(ax, views, f'Mask: {share:.0%} of the occupied cells hidden')


def draw_components(ax: Axes, views: SweepViews) -> None:
    """First three principal components of the embedding at occupied cells."""
    title = 'BEV embedding: principal components 1-3 as RGB'
    if int(views.occupied.sum()) < 2:
        ax.text(0.5, 0.5, 'fewer than two occupied cells', ha='center', transform=ax.transAxes)
    else:
        image = pca_colours(views.unit_bev, views.occupied)
        ax.imshow(image.numpy(), origin='lower', extent=views.extent, interpolation='nearest')
    _metres(ax, views, title)


def draw_agreement(ax: Axes, views: SweepViews) -> None:
    """Cosine of prediction and target over the masked cells."""
    masked = (views.mask_classes == MASKED_OCCUPIED) | (views.mask_classes == MASKED_EMPTY)
    cosine = np.ma.masked_where(~masked.cpu().numpy(), views.cosine.cpu().numpy())
    ax.set_facecolor('#f4f4f4')  # visible cells stay transparent
    image = ax.imshow(
        cosine, origin='lower', extent=views.extent, interpolation='nearest', cmap='RdYlGn',
        vmin=-1, vmax=1,
    )  # fmt: skip
    ax.figure.colorbar(image, ax=ax, label='cos(prediction, target)', shrink=0.8)
    _metres(ax, views, 'Prediction against target (masked cells)')


def draw_cosines(ax: Axes, views: SweepViews) -> None:
    """Distribution of that cosine, occupied and empty cells apart."""
    bins = np.linspace(-1, 1, 81).tolist()
    for kind in (MASKED_OCCUPIED, MASKED_EMPTY):
        values = views.cosine[views.mask_classes == kind].cpu().numpy()
        if not len(values):
            continue
        colour = '#d9622b' if kind == MASKED_OCCUPIED else '#8a6d5a'
        label = f'{MASK_NAMES[kind]}: mean {values.mean():.3f}'
        weights = np.full(len(values), 1 / len(values))
        ax.hist(values, bins, weights=weights, histtype='stepfilled', alpha=0.5, color=colour)
        ax.axvline(values.mean(), color=colour, label=label)
    masked = views.cosine[(views.mask_classes & 1).bool()]
    low = float(masked.min()) if len(masked) else -1.0
    ax.set(
        title='How well the masked cells are predicted', xlabel='cos(prediction, target)',
        ylabel='share of the cells', xlim=(min(low, 0) - 0.05, 1.02),
    )  # fmt: skip
    ax.grid(color=GRID_COLOUR, linewidth=0.5)
    if len(masked):
        ax.legend(fontsize=8)


def draw_spectrum(ax: Axes, features_ND: Tensor, title: str = 'Feature spectrum') -> None:
    """Singular values of the covariance (log axis) and cumulative explained variance."""
    try:
        spectrum = covariance_spectrum(features_ND)
    except ValueError as error:
        ax.text(0.5, 0.5, str(error), ha='center', va='center', wrap=True, transform=ax.transAxes)
        ax.set(title=title)
        return
    values = spectrum.singular_values.cpu().numpy()
    index = np.arange(1, len(values) + 1)
    floor = values[0] * 1e-8
    ax.semilogy(index, np.maximum(values, floor), color='#1f5fa8')
    rank = float(effective_rank(features_ND))
    ax.set(
        title=f'{title}: effective rank {rank:.1f} of {features_ND.shape[1]}',
        xlabel='component', xlim=(1, max(len(values), 2)),
    )  # fmt: skip
    ax.set_ylabel('singular value of the covariance', color='#1f5fa8')
    ax.grid(color=GRID_COLOUR, linewidth=0.5)
    right = ax.twinx()
    right.plot(index, spectrum.explained.cpu().numpy(), color='#d9622b')
    right.set_ylim(0, 1.02)
    right.set_ylabel(
        f'cumulative explained variance (AUC {float(spectrum.auc):.3f})', color='#d9622b'
    )


def occupied_rows(views: SweepViews) -> Tensor:
    """(n, C) L2-normalised embedding rows of the occupied cells."""
    return views.unit_bev.permute(1, 2, 0)[views.occupied]


def sweep_figure(views: SweepViews) -> Figure:
    """Six panels: cloud, mask, components; agreement map, its distribution, spectrum."""
    low_x, high_x, low_y, high_y = views.extent
    panel_height = 5.2 * min(max((high_y - low_y) / (high_x - low_x), 0.7), 1.3)
    figure = new_figure(17.5, 2 * panel_height + 1.6)
    axes = figure.subplots(2, 3)
    draw_points(axes[0, 0], views)
    draw_mask(axes[0, 1], views)
    draw_components(axes[0, 2], views)
    draw_agreement(axes[1, 0], views)
    draw_cosines(axes[1, 1], views)
    draw_spectrum(axes[1, 2], occupied_rows(views), 'Spectrum, occupied cells')
    if views.title:
        figure.suptitle(views.title)
    return figure


def save_figure(figure: Figure, path: str | Path, dpi: int = 110) -> Path:
    """Write a PNG (or what the suffix says), making the folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    return path


def view_sweep(model: Any, sweep: Sweep, index: int = 0, title: str = '') -> SweepViews:
    """Run a LiDAR method on one sweep.

    Args:
        model: From ``mmjepa.apis.init_model``; has ``inspect``, and its preprocessor has
            ``point_cloud_range``.
        sweep: A file, or points (N, F).
        index: Seed of the mask.
        title: Of the figure.

    Returns:
        :class:`SweepViews`, tensors on the CPU.

    Raises:
        TypeError: If the model cannot be looked into.
        ValueError: If the sweep is unusable.
    """
    from mmjepa.apis.inference import sweep_pipeline
    from mmjepa.apis.sweeps import preprocess

    limits = getattr(model.data_preprocessor, 'point_cloud_range', None)
    if not hasattr(model, 'inspect') or limits is None:
        raise TypeError(
            f'{type(model).__name__} has no inspect(), or no point_cloud_range in its '
            'preprocessor; sweeps can be drawn of LiDAR methods'
        )
    packed = sweep_pipeline(model)(sweep, index)
    inputs = preprocess(model, [packed])
    with torch.no_grad():
        bev = model.extract_feat(inputs)[0].float().cpu()
        seen = {k: v[0].cpu() for k, v in model.inspect(inputs).items()}
    return SweepViews(
        points=packed['inputs']['points'].numpy(),
        point_cloud_range=tuple(float(v) for v in limits),
        bev=bev,
        mask_classes=seen['mask_classes'],
        prediction=seen['prediction'],
        target=seen['target'],
        title=title,
    )
