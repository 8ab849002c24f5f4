"""KITTI object files: calibration, labels, boxes, and points inside boxes.

Boxes are (N, 7) float64: x, y, z of the gravity centre, dx (length), dy (width), dz (height), yaw
about +z, counter-clockwise from +x; LiDAR frame (x forward, y left, z up), metres, radians.

Source: Geiger et al., "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite",
CVPR 2012, and the benchmark's object development kit.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PathLike = str | Path
FloatArray = NDArray[Any]

# shape (height, width) of most KITTI images; used where an image isn't at hand
DEFAULT_IMAGE_HW = (375, 1242)
DIFFICULTY_MIN_HEIGHT = (40.0, 25.0, 25.0)  # px
DIFFICULTY_MAX_OCCLUSION = (0, 1, 2)
DIFFICULTY_MAX_TRUNCATION = (0.15, 0.3, 0.5)


@dataclass
class KittiCalib:
    """Calibration of one KITTI frame.

    Attributes:
        p2: (3, 4) float64, projection of the left colour camera.
        r0: (3, 3) float64, rectifying rotation.
        velo_to_cam: (3, 4) float64, LiDAR to unrectified camera frame.
    """

    p2: FloatArray
    r0: FloatArray
    velo_to_cam: FloatArray

    @classmethod
    def from_file(cls, path: PathLike) -> 'KittiCalib':
        """Reads a ``calib/NNNNNN.txt``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a matrix is missing, has the wrong length or isn't finite.
        """
        path = Path(path)
        rows: dict[str, str] = {}
        for line in _read_text(path, 'a KITTI calibration file').splitlines():
            key, colon, values = line.partition(':')
            if colon:
                rows[key.strip()] = values
        return cls(
            p2=_matrix(rows, ('P2',), (3, 4), path),
            r0=_matrix(rows, ('R0_rect', 'R_rect'), (3, 3), path),
            velo_to_cam=_matrix(rows, ('Tr_velo_to_cam', 'Tr_velo_cam'), (3, 4), path),
        )

    def lidar_to_camera(self, points: FloatArray) -> FloatArray:
        """(N, >=3) LiDAR coordinates -> (N, 3) in the rectified camera frame (x right, z ahead)."""
        rotation = self.r0 @ self.velo_to_cam[:, :3]
        return points[:, :3] @ rotation.T + self.r0 @ self.velo_to_cam[:, 3]

    def camera_to_lidar(self, points: FloatArray) -> FloatArray:
        """(N, >=3) rectified camera coordinates -> (N, 3) in the LiDAR frame."""
        rotation = self.r0 @ self.velo_to_cam[:, :3]
        shifted = points[:, :3] - self.r0 @ self.velo_to_cam[:, 3]
        return np.linalg.solve(rotation, shifted.T).T

    def camera_to_image(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Projects rectified camera coordinates.

        Args:
            points: (N, >=3).

        Returns:
            uv (N, 2) in pixels, meaningless where depth <= 0, and depth (N,) = camera z in metres.
        """
        image = points[:, :3] @ self.p2[:, :3].T + self.p2[:, 3]
        with np.errstate(divide='ignore', invalid='ignore'):
            uv = image[:, :2] / image[:, 2:]
        return uv, points[:, 2]

    def fov_mask(
        self, points: FloatArray, image_hw: tuple[int, int] = DEFAULT_IMAGE_HW
    ) -> NDArray[np.bool_]:
        """Which LiDAR points the left colour camera sees (in front of it and inside the image).

        Args:
            points: (N, F), LiDAR frame. Non-finite points come out False.
            image_hw: height and width in pixels.

        Returns:
            (N,) bool.
        """
        height, width = image_hw
        to_camera = np.eye(4)
        to_camera[:3] = self.r0 @ self.velo_to_cam
        matrix = self.p2 @ to_camera
        if points.dtype == np.float32:  # ~1e-4 px; half the time of float64
            matrix = matrix.astype(np.float32)
        with np.errstate(invalid='ignore', over='ignore'):
            u, v, w = matrix[:, :3] @ points[:, :3].T + matrix[:, 3:]
            # multiplied out: no division, no trouble at w = 0
            return (w > 0) & (u >= 0) & (u < width * w) & (v >= 0) & (v < height * w)


@dataclass
class KittiObjects:
    """The objects of one KITTI label (or result) file, one row each, in file order.

    ``DontCare`` rows are kept; :meth:`without_dontcare` drops them.

    Attributes:
        names: (N,) str.
        truncated: (N,) share outside the image, -1 for DontCare.
        occluded: (N,) int, 0 visible, 1 partly, 2 largely occluded, 3 unknown, -1 DontCare.
        alpha: (N,) observation angle in radians.
        bbox: (N, 4) left, top, right, bottom in pixels.
        dims: (N, 3) height, width, length in metres.
        location: (N, 3) centre of the bottom face, rectified camera frame, metres.
        rotation_y: (N,) about the camera's y axis in radians.
        score: (N,) or None.
    """

    names: NDArray[np.str_]
    truncated: FloatArray
    occluded: NDArray[np.int64]
    alpha: FloatArray
    bbox: FloatArray
    dims: FloatArray
    location: FloatArray
    rotation_y: FloatArray
    score: FloatArray | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != len(self.names):
                raise ValueError(
                    f'KittiObjects.{field.name} has {len(value)} rows, names has {len(self.names)}'
                )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_file(cls, path: PathLike) -> 'KittiObjects':
        """Reads a ``label_2/NNNNNN.txt``; an empty file gives zero objects.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line hasn't 15 columns (16 with a score), or a column isn't a number.
        """
        path = Path(path)
        lines = _read_text(path, 'a KITTI label file').splitlines()
        rows = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
        widths = {len(row) for _, row in rows}
        for number, row in rows:
            if len(row) not in (15, 16) or len(widths) > 1:
                raise ValueError(
                    f'{path}, line {number}: {len(row)} columns, expected 15 on every line '
                    '(16 with a score): type truncated occluded alpha bbox*4 hwl xyz rotation_y'
                )
        values = np.zeros((len(rows), (widths or {15}).pop() - 1))
        for i, (number, row) in enumerate(rows):
            try:
                values[i] = [float(value) for value in row[1:]]
            except ValueError as error:
                raise ValueError(f'{path}, line {number}: {error}') from None
        return cls(
            names=np.array([row[0] for _, row in rows], dtype=np.str_),
            truncated=values[:, 0],
            occluded=values[:, 1].astype(np.int64),
            alpha=values[:, 2],
            bbox=values[:, 3:7],
            dims=values[:, 7:10],
            location=values[:, 10:13],
            rotation_y=values[:, 13],
            score=values[:, 14] if values.shape[1] == 15 else None,
        )

    def write(self, path: PathLike) -> None:
        """Writes the file in KITTI's format, two decimals (four for the score)."""
        lines = []
        for i, name in enumerate(self.names):
            numbers = [self.alpha[i], *self.bbox[i], *self.dims[i], *self.location[i]]
            numbers.append(self.rotation_y[i])
            line = f'{name} {self.truncated[i]:.2f} {int(self.occluded[i])} '
            line += ' '.join(f'{value:.2f}' for value in numbers)
            lines.append(line if self.score is None else f'{line} {self.score[i]:.4f}')
        Path(path).write_text(''.join(f'{line}\n' for line in lines))

    def select(self, keep: NDArray[Any]) -> 'KittiObjects':
        """The rows that ``keep`` (bool mask or indices) picks."""
        columns: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            columns[field.name] = None if value is None else value[keep]
        return KittiObjects(**columns)

    def without_dontcare(self) -> 'KittiObjects':
        """All rows but ``DontCare``."""
        return self.select(self.names != 'DontCare')

    def boxes_lidar(self, calib: KittiCalib) -> FloatArray:
        """Boxes in the LiDAR frame.

        Returns:
            (N, 7) float64, gravity centre; ``DontCare`` rows have negative sizes and hold no point.
        """
        centre = self.location.copy()
        centre[:, 1] -= self.dims[:, 0] / 2  # camera y points down, location is on the ground
        yaw = -self.rotation_y - np.pi / 2
        yaw = (yaw + np.pi) % (2 * np.pi) - np.pi
        sizes = self.dims[:, [2, 1, 0]]
        return np.concatenate([calib.camera_to_lidar(centre), sizes, yaw[:, None]], axis=1)

    def difficulty(self) -> NDArray[np.int64]:
        """KITTI's difficulty: 0 easy, 1 moderate, 2 hard, -1 none of them (or DontCare)."""
        result = np.full(len(self), -1, dtype=np.int64)
        height = self.bbox[:, 3] - self.bbox[:, 1]
        real = self.names != 'DontCare'
        for level in (2, 1, 0):
            fits = real & (height > DIFFICULTY_MIN_HEIGHT[level])
            fits &= self.occluded <= DIFFICULTY_MAX_OCCLUSION[level]
            fits &= self.truncated <= DIFFICULTY_MAX_TRUNCATION[level]
            result[fits] = level
        return result


def points_in_boxes(points: FloatArray, boxes: FloatArray) -> NDArray[np.int64]:
    """Which box each point lies in; where boxes overlap the first one wins.

    Args:
        points: (N, >=3), x, y, z first.
        boxes: (M, 7), the layout of this module. Faces belong to the box.

    Returns:
        (N,) int64 index of the box, -1 outside all.

    Raises:
        ValueError: wrong shapes.
    """
    if points.ndim != 2 or points.shape[1] < 3:
        raise ValueError(f'points must be (N, >=3), got {points.shape}')
    if boxes.ndim != 2 or boxes.shape[1] != 7:
        raise ValueError(f'boxes must be (M, 7): x y z dx dy dz yaw, got {boxes.shape}')
    result = np.full(len(points), -1, dtype=np.int64)
    xs, ys = np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])
    for index in range(len(boxes) - 1, -1, -1):  # backwards: the first box writes last
        x, y, z, dx, dy, dz, yaw = (float(value) for value in boxes[index])
        radius = float(np.hypot(dx, dy)) / 2 + 1e-3  # the test below is in float64
        # the circumscribed square first: few points are left for the exact test
        near = np.flatnonzero((np.abs(xs - x) <= radius) & (np.abs(ys - y) <= radius))
        local = points[near, :3].astype(np.float64) - (x, y, z)
        along = np.cos(yaw) * local[:, 0] + np.sin(yaw) * local[:, 1]
        across = np.cos(yaw) * local[:, 1] - np.sin(yaw) * local[:, 0]
        inside = (np.abs(along) <= dx / 2) & (np.abs(across) <= dy / 2)
        inside &= np.abs(local[:, 2]) <= dz / 2
        result[near[inside]] = index
    return result


def png_size(path: PathLike) -> tuple[int, int]:
    """(height, width) in pixels from a PNG's header, without decoding it.

    Raises:
        ValueError: not a PNG.
    """
    with open(path, 'rb') as file:
        header = file.read(24)
    if len(header) < 24 or header[:8] != b'\x89PNG\r\n\x1a\n':
        raise ValueError(f'{path}: not a PNG file (or truncated)')
    return int.from_bytes(header[20:24], 'big'), int.from_bytes(header[16:20], 'big')


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file, expected {what}') from None
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not a text file, expected {what} ({error})') from None


def _matrix(
    rows: dict[str, str], keys: tuple[str, ...], shape: tuple[int, int], path: Path
) -> FloatArray:
    key = next((key for key in keys if key in rows), None)
    if key is None:
        raise ValueError(f'{path}: no line "{keys[0]}:", found {sorted(rows) or "no key at all"}')
    try:
        values = np.array([float(value) for value in rows[key].split()])
    except ValueError as error:
        raise ValueError(f'{path}, {key}: {error}') from None
    if values.size != shape[0] * shape[1] or not np.isfinite(values).all():
        raise ValueError(
            f'{path}, {key}: expected {shape[0] * shape[1]} finite numbers, got {rows[key].strip()}'
        )
    return values.reshape(shape)
