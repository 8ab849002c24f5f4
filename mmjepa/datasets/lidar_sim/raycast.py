"""Two ray casters over the same triangles: open3d (Embree) on the CPU, torch anywhere.

Both only say which face a ray meets first; ranges are computed from the face afterwards, so they
are the same wherever the casters agree on the face.
"""

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .scene import Scene
from .shapes import IntArray

if TYPE_CHECKING:
    from torch import Tensor

CASTERS = ('auto', 'open3d', 'torch')
_TILE = 64  # neighbouring rays culled together
_CLUSTER = 32  # neighbouring faces culled together


class Caster(Protocol):
    """What both casters do.

    Attributes:
        name: 'open3d' or 'torch'.
        device: where it computes, such as 'cpu' or 'cuda:0'.
    """

    name: str
    device: Any

    def cast(
        self, scene: Scene, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> IntArray:
        """First face along each ray.

        Args:
            scene: the triangles.
            origins: (N, 3) metres.
            directions: (N, 3) unit length. Neighbouring rays should be neighbours in space.

        Returns:
            (N,) int64 face numbers, -1 where the ray meets nothing.
        """


def make_caster(name: str = 'auto', device: str = 'auto', threads: int = 0) -> Caster:
    """Chooses a ray caster.

    Args:
        name: 'auto' is open3d where it imports and the device isn't CUDA, else torch.
        device: 'cpu', 'cuda', 'cuda:1', ...; 'auto' is CUDA for torch where there is one.
        threads: of open3d; 0 is all.

    Raises:
        ValueError: unknown name, or open3d asked for on CUDA.
        ImportError: open3d asked for and not installed.
        RuntimeError: CUDA asked for and not there.
    """
    if name not in CASTERS:
        raise ValueError(f'caster must be one of {", ".join(CASTERS)}, got {name!r}')
    have_open3d = importlib.util.find_spec('open3d') is not None
    if name == 'auto' and have_open3d and not device.startswith('cuda'):
        try:
            return Open3DCaster(threads)
        except (ImportError, OSError) as error:  # it wants libX11 and libGL, for a start
            warnings.warn(
                f'open3d does not import ({error}), the slower torch caster takes its place; '
                'tools/check_env.py says what to install',
                stacklevel=2,
            )
    if name == 'open3d':
        if device.startswith('cuda'):
            raise ValueError(
                f'caster open3d runs on the CPU, not on {device!r}: drop one of the two options'
            )
        if not have_open3d:
            raise ImportError(
                "caster 'open3d' needs open3d: pip install 'mmjepa[lidar]', or use caster 'torch'"
            )
        return Open3DCaster(threads)
    return TorchCaster(device)


class Open3DCaster:
    """Embree through ``open3d.t.geometry.RaycastingScene``."""

    name = 'open3d'
    device = 'cpu'

    def __init__(self, threads: int = 0) -> None:
        import open3d

        self._o3d: Any = open3d
        self._threads = threads
        self._scene: Scene | None = None
        self._tree: Any = None

    def cast(
        self, scene: Scene, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> IntArray:
        """See :meth:`Caster.cast`."""
        core = self._o3d.core
        if self._scene is not scene:  # sweep, picture and labels ask the same scene
            self._tree = self._o3d.t.geometry.RaycastingScene(nthreads=self._threads)
            self._tree.add_triangles(
                core.Tensor(scene.vertices.astype(np.float32)),
                core.Tensor(scene.faces.astype(np.uint32)),
            )
            self._scene = scene
        rays = core.Tensor(np.concatenate([origins, directions], axis=1))
        answer = self._tree.cast_rays(rays, nthreads=self._threads)
        faces = answer['primitive_ids'].numpy().astype(np.int64)
        faces[faces == self._tree.INVALID_ID] = -1
        return faces


class TorchCaster:
    """Ray-triangle tests in torch, float64, after culling tiles of rays against faces.

    A tile's rays lie in a pyramid; a face is tested against the tile's rays only if no side of the
    pyramid has all of it outside. Work is done in chunks of bounded memory.
    """

    name = 'torch'

    def __init__(self, device: str = 'auto', chunk: int | None = None) -> None:
        import torch

        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        if device.startswith('cuda') and not torch.cuda.is_available():
            raise RuntimeError(
                f'device {device!r}: torch sees no CUDA device here; use --device cpu'
            )
        self.device = torch.device(device)
        # ray-face tests at once: 2**18 stay in a CPU's cache, a GPU wants more
        self.chunk = chunk or (2**22 if self.device.type == 'cuda' else 2**18)

    def cast(
        self, scene: Scene, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> IntArray:
        """See :meth:`Caster.cast`."""
        import torch

        count = len(directions)
        if count == 0:
            return np.zeros(0, dtype=np.int64)
        padded = -(-count // _TILE) * _TILE
        spread = np.minimum(np.arange(padded), count - 1)  # the last ray fills its tile
        o = torch.as_tensor(origins[spread], device=self.device).double().view(-1, _TILE, 3)
        d = torch.as_tensor(directions[spread], device=self.device).double().view(-1, _TILE, 3)
        num_faces = len(scene.faces)
        filled = -(-num_faces // _CLUSTER) * _CLUSTER
        faces = torch.as_tensor(scene.faces[np.minimum(np.arange(filled), num_faces - 1)])
        vertices = torch.as_tensor(scene.vertices, device=self.device)
        corners = vertices[faces.to(self.device)]  # (F, 3, 3)
        rays, ranges, hits = [], [], []
        for tile, face in self._candidates(o, d, corners):
            ray, distance, number = _intersect(o, d, corners, tile, face)
            rays.append(ray)
            ranges.append(distance)
            hits.append(number)
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        return _nearest(
            torch.cat([none, *rays]), torch.cat([none.double(), *ranges]), torch.cat([none, *hits]),
            padded,
        )[:count].clip(max=num_faces - 1)  # fmt: skip

    def _candidates(
        self, o: 'Tensor', d: 'Tensor', corners: 'Tensor'
    ) -> 'list[tuple[Tensor, Tensor]]':
        """Chunks of (tile, face) pairs that may meet."""
        import torch

        middle, slack, planes = _pyramids(o, d)
        groups = corners.view(-1, _CLUSTER * 3, 3)
        centre = (groups.amin(1) + groups.amax(1)) / 2
        radius = (groups - centre[:, None]).norm(dim=-1).amax(1)
        tiles = len(o)
        result = []
        # tile against cluster: planes . centre, one matrix product per block of tiles
        step = max(1, self.chunk // (len(groups) * 4))
        clusters: list[tuple[Tensor, Tensor]] = []
        for start in range(0, tiles, step):
            part = slice(start, min(start + step, tiles))
            level = torch.einsum('tpc,gc->tpg', planes[part], centre)
            level = level - (planes[part] * middle[part, None]).sum(-1)[..., None]
            inside = (level > -(radius + slack[part, None])[:, None]).all(1)
            tile, group = inside.nonzero(as_tuple=True)
            clusters.append((tile + start, group))
        tile = torch.cat([pair[0] for pair in clusters])
        group = torch.cat([pair[1] for pair in clusters])
        step = max(1, self.chunk // (_CLUSTER * 12))
        pairs = []
        for start in range(0, len(tile), step):
            part = slice(start, start + step)
            t, g = tile[part], group[part]
            points = groups[g] - middle[t, None]
            level = torch.einsum('npc,nvc->npv', planes[t], points) > -slack[t, None, None]
            inside = level.view(len(t), -1, _CLUSTER, 3).any(-1).all(1)
            row, column = inside.nonzero(as_tuple=True)
            pairs.append((t[row], g[row] * _CLUSTER + column))
        if pairs:
            tile = torch.cat([pair[0] for pair in pairs])
            face = torch.cat([pair[1] for pair in pairs])
            step = max(1, self.chunk // _TILE)
            result = list(zip(tile.split(step), face.split(step), strict=True))
        return result


def _pyramids(o: 'Tensor', d: 'Tensor') -> 'tuple[Tensor, Tensor, Tensor]':
    """Pyramids around tiles of rays (T, K, 3).

    Returns:
        Apex (T, 3), how far the rays' origins lie from it (T,), and inward unit normals of the
        four sides and of the plane across (T, 5, 3).
    """
    import torch

    middle = o.mean(1)
    slack = (o - middle[:, None]).norm(dim=-1).amax(1) + 1e-6
    axis = torch.nn.functional.normalize(d.mean(1), dim=-1)
    up = torch.zeros_like(axis)
    upright = axis[:, 2].abs() > 0.9
    up[:, 2], up[:, 0] = (~upright).double(), upright.double()
    right = torch.nn.functional.normalize(torch.linalg.cross(axis, up, dim=-1), dim=-1)
    top = torch.linalg.cross(right, axis, dim=-1)
    # tangent-plane coordinates of the rays
    depth = (d * axis[:, None]).sum(-1)
    narrow = (depth.amin(1) > 0.2)[:, None, None]
    depth = depth.clamp(min=0.2)
    x = (d * right[:, None]).sum(-1) / depth
    y = (d * top[:, None]).sum(-1) / depth
    sides = [
        right - x.amin(1, keepdim=True) * axis,
        x.amax(1, keepdim=True) * axis - right,
        top - y.amin(1, keepdim=True) * axis,
        y.amax(1, keepdim=True) * axis - top,
        axis,
    ]
    # a tile across a gap in the turn is too wide for a pyramid: zero normals let every face pass
    return middle, slack, torch.nn.functional.normalize(torch.stack(sides, 1), dim=-1) * narrow


def _intersect(
    o: 'Tensor', d: 'Tensor', corners: 'Tensor', tile: 'Tensor', face: 'Tensor'
) -> 'tuple[Tensor, Tensor, Tensor]':
    """Moeller-Trumbore for every ray of each tile against its face: hits (ray, range, face)."""
    import torch

    a, b, c = corners[face].unbind(1)
    ab, ac = (b - a)[:, None], (c - a)[:, None]
    directions, start = d[tile], o[tile] - a[:, None]
    h = torch.linalg.cross(directions, ac.expand_as(directions), dim=-1)
    q = torch.linalg.cross(start, ab.expand_as(start), dim=-1)
    determinant = (ab * h).sum(-1)
    scale = 1 / torch.where(determinant.abs() < 1e-14, torch.nan, determinant)
    u = (start * h).sum(-1) * scale
    v = (directions * q).sum(-1) * scale
    distance = (ac * q).sum(-1) * scale
    # inclusive edges: no gap between two faces; comparisons with NaN are False
    hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9) & (distance > 1e-6)
    pair, ray = hit.nonzero(as_tuple=True)
    return tile[pair] * _TILE + ray, distance[pair, ray], face[pair]


def _nearest(rays: 'Tensor', ranges: 'Tensor', faces: 'Tensor', count: int) -> IntArray:
    """Face of the smallest range of each of ``count`` rays; the lowest number among equals."""
    import torch

    best = torch.full((count,), torch.inf, dtype=torch.float64, device=rays.device)
    best.scatter_reduce_(0, rays, ranges, 'amin')
    first = ranges == best[rays]
    none = 2**62
    answer = torch.full((count,), none, dtype=torch.int64, device=rays.device)
    answer.scatter_reduce_(0, rays[first], faces[first], 'amin')
    return torch.where(answer == none, -1, answer).cpu().numpy()
