"""The simulated colour camera: KITTI's calibration, what it sees, and a cheap picture."""

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..kitti import DEFAULT_IMAGE_HW, KittiCalib
from . import materials
from .materials import Material as M
from .raycast import Caster
from .scene import Scene
from .shapes import FloatArray

# one of KITTI's own calibrations, as its files write it
CALIB_TEXT = """\
P0: 7.215377000000e+02 0.000000000000e+00 6.095593000000e+02 0.000000000000e+00 \
0.000000000000e+00 7.215377000000e+02 1.728540000000e+02 0.000000000000e+00 \
0.000000000000e+00 0.000000000000e+00 1.000000000000e+00 0.000000000000e+00
P1: 7.215377000000e+02 0.000000000000e+00 6.095593000000e+02 -3.875744000000e+02 \
0.000000000000e+00 7.215377000000e+02 1.728540000000e+02 0.000000000000e+00 \
0.000000000000e+00 0.000000000000e+00 1.000000000000e+00 0.000000000000e+00
P2: 7.215377000000e+02 0.000000000000e+00 6.095593000000e+02 4.485728000000e+01 \
0.000000000000e+00 7.215377000000e+02 1.728540000000e+02 2.163791000000e-01 \
0.000000000000e+00 0.000000000000e+00 1.000000000000e+00 2.745884000000e-03
P3: 7.215377000000e+02 0.000000000000e+00 6.095593000000e+02 -3.395242000000e+02 \
0.000000000000e+00 7.215377000000e+02 1.728540000000e+02 2.199936000000e+00 \
0.000000000000e+00 0.000000000000e+00 1.000000000000e+00 2.729905000000e-03
R0_rect: 9.999239000000e-01 9.837760000000e-03 -7.445048000000e-03 \
-9.869795000000e-03 9.999421000000e-01 -4.278459000000e-03 \
7.402527000000e-03 4.351614000000e-03 9.999631000000e-01
Tr_velo_to_cam: 7.533745000000e-03 -9.999714000000e-01 -6.166020000000e-04 -4.069766000000e-03 \
1.480249000000e-02 7.280733000000e-04 -9.998902000000e-01 -7.631618000000e-02 \
9.998621000000e-01 7.523790000000e-03 1.480755000000e-02 -2.717806000000e-01
Tr_imu_to_velo: 9.999976000000e-01 7.553071000000e-04 -2.035826000000e-03 -8.086759000000e-01 \
-7.854027000000e-04 9.998898000000e-01 -1.482298000000e-02 3.195559000000e-01 \
2.024406000000e-03 1.482454000000e-02 9.998881000000e-01 -7.997231000000e-01

"""
IMAGE_HW = DEFAULT_IMAGE_HW
_COARSE = 4  # pixels of the picture per cast ray, along each axis


@dataclass(frozen=True)
class Camera:
    """The camera in the LiDAR frame.

    Attributes:
        calib: the calibration.
        centre: (3,) its position, metres.
        to_lidar: (3, 3) turns pixels (u, v, 1) into directions.
    """

    calib: KittiCalib
    centre: FloatArray
    to_lidar: FloatArray

    def directions(self, uv: FloatArray) -> NDArray[np.float32]:
        """(N, 2) pixels -> (N, 3) float32 unit vectors in the LiDAR frame."""
        rays = np.c_[uv, np.ones(len(uv))] @ self.to_lidar.T
        return (rays / np.linalg.norm(rays, axis=1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=1)
def kitti_camera() -> Camera:
    """The camera of :data:`CALIB_TEXT`."""
    rows = {}
    for line in CALIB_TEXT.strip().splitlines():
        key, _, values = line.partition(':')
        rows[key] = np.array([float(value) for value in values.split()])
    calib = KittiCalib(
        p2=rows['P2'].reshape(3, 4),
        r0=rows['R0_rect'].reshape(3, 3),
        velo_to_cam=rows['Tr_velo_to_cam'].reshape(3, 4),
    )
    inside = -np.linalg.solve(calib.p2[:, :3], calib.p2[:, 3])
    turn = np.linalg.inv(calib.r0 @ calib.velo_to_cam[:, :3])
    to_lidar = (turn @ np.linalg.inv(calib.p2[:, :3])).astype(np.float64)
    return Camera(calib, calib.camera_to_lidar(inside[None])[0], to_lidar)


@lru_cache(maxsize=1)
def _pixel_rays() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Origins and directions of the picture's rays, row by row."""
    camera = kitti_camera()
    v, u = np.meshgrid(
        (np.arange(-(-IMAGE_HW[0] // _COARSE)) + 0.5) * _COARSE,
        (np.arange(-(-IMAGE_HW[1] // _COARSE)) + 0.5) * _COARSE,
        indexing='ij',
    )
    directions = camera.directions(np.stack([u.ravel(), v.ravel()], axis=1))
    origins = np.broadcast_to(camera.centre.astype(np.float32), directions.shape)
    return np.ascontiguousarray(origins), directions


def render(scene: Scene, caster: Caster) -> NDArray[np.uint8]:
    """A flat-shaded picture, coarse on purpose: it stands where KITTI's image would.

    Returns:
        (375, 1242, 3) uint8, RGB.
    """
    origins, directions = _pixel_rays()
    faces = caster.cast(scene, origins, directions)
    light = np.abs(scene.normals @ np.array([0.35, 0.45, 0.82]))
    shade = materials.COLOUR[scene.materials] * (0.45 + 0.55 * light[:, None])
    shade *= _object_colours(scene)
    rows, columns = -(-IMAGE_HW[0] // _COARSE), -(-IMAGE_HW[1] // _COARSE)
    sky = np.linspace(150, 225, rows)[:, None] + np.array([0, 10, 25])
    # one more row for rays that meet nothing: index -1
    palette = np.concatenate([shade, np.zeros((1, 3))]).clip(0, 255).astype(np.uint8)
    picture = palette[faces].reshape(rows, columns, 3)
    nothing = (faces < 0).reshape(rows, columns)
    picture[nothing] = np.broadcast_to(sky[:, None], picture.shape)[nothing].astype(np.uint8)
    full = np.repeat(np.repeat(picture, _COARSE, axis=0), _COARSE, axis=1)
    return full[: IMAGE_HW[0], : IMAGE_HW[1]]


def _object_colours(scene: Scene) -> FloatArray:
    """(F, 3) factors: paint, clothes and walls get hues that follow from their reflectivity."""
    factor = np.ones((len(scene.faces), 3))
    hued = np.isin(scene.materials, (M.PAINT, M.CLOTH, M.FACADE, M.METAL))
    tint = scene.tints[hued]
    factor[hued] = 0.35 + 0.6 * np.stack(
        [tint, (tint * 7.3) % 1.0 * 0.5 + tint * 0.5, (tint * 13.7) % 1.0 * 0.5 + tint * 0.5],
        axis=1,
    ).clip(0, 1)
    return factor


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes an RGB PNG with zlib alone: equal bytes whatever image library is installed.

    Args:
        path: the file.
        picture: (H, W, 3) uint8.
    """
    height, width = picture.shape[:2]
    # filter 2 stores the difference to the row above: repeated rows become zeros
    lines = np.zeros((height, 1 + width * 3), dtype=np.uint8)
    flat = picture.reshape(height, -1)
    lines[0, 1:] = flat[0]
    lines[1:, 0] = 2
    lines[1:, 1:] = flat[1:] - flat[:-1]  # wraps modulo 256, as the format wants
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(lines.tobytes(), 1)), (b'IEND', b'')]
    data = b'\x89PNG\r\n\x1a\n'
    for kind, body in chunks:
        checksum = zlib.crc32(kind + body)
        data += struct.pack('>I', len(body)) + kind + body + struct.pack('>I', checksum)
    path.write_bytes(data)


def project_edges(camera: Camera, corners: FloatArray) -> FloatArray:
    """Box around the picture of triangles, not clipped to the image.

    Args:
        camera: the camera.
        corners: (F, 3, 3) in the LiDAR frame.

    Returns:
        (4,) left, top, right, bottom in pixels; NaN when all of it lies behind the camera.
    """
    near = 0.1
    points = camera.calib.lidar_to_camera(corners.reshape(-1, 3)).reshape(-1, 3, 3)
    visible = points.reshape(-1, 3)
    visible = visible[visible[:, 2] > near]
    if len(visible) < points.size // 3:  # cut the edges at the near plane
        start, end = points.reshape(-1, 3), points[:, [1, 2, 0]].reshape(-1, 3)
        crossing = (start[:, 2] > near) != (end[:, 2] > near)
        a, b = start[crossing], end[crossing]
        share = ((near - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None]
        visible = np.concatenate([visible, a + share * (b - a)])
    if not len(visible):
        return np.full(4, np.nan)
    uv, _ = camera.calib.camera_to_image(visible)
    return np.concatenate([uv.min(axis=0), uv.max(axis=0)])


def in_image(uv: FloatArray, depth: FloatArray) -> NDArray[np.bool_]:
    """Which (..., 2) pixels lie inside the image and in front of the camera."""
    height, width = IMAGE_HW
    u, v = uv[..., 0], uv[..., 1]
    return (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
