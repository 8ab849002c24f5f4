"""KITTI labels of a simulated frame.

KITTI's rules (object development kit, readme.txt): ``truncated`` is the share of an object that
leaves the image, ``occluded`` is 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown;
DontCare marks regions with objects that weren't labelled, for instance since the LiDAR doesn't
reach them. Difficulty follows from these and the box's height (``KittiObjects.difficulty``).
"""

import numpy as np
from numpy.typing import NDArray

from ..kitti import KittiObjects
from .camera import IMAGE_HW, Camera, in_image, kitti_camera, project_edges
from .raycast import Caster
from .scene import Scene
from .shapes import FloatArray, IntArray

PARTLY, LARGELY, HIDDEN = 0.15, 0.5, 0.9  # occluded shares from which on the levels count
MAX_TRUNCATION = 0.95
MIN_POINTS = 1  # LiDAR points of a labelled object
MIN_DONTCARE_HEIGHT = 5.0  # px


def occlusion_and_truncation(
    scene: Scene, caster: Caster, camera: Camera
) -> tuple[FloatArray, FloatArray]:
    """How much of each object something else hides, and how much leaves the image.

    One ray is cast from the camera at each of the points spread over an object's surface, weighted
    by the solid angle that it stands for; a ray that first meets another object is occluded.

    Returns:
        (O,) occluded share of the part inside the image (1 where none is), (O,) share outside.
    """
    count, samples = scene.sample_faces.shape
    offset = scene.samples - camera.centre
    distance = np.linalg.norm(offset, axis=-1)
    directions = offset / distance[..., None]
    facing = np.abs((scene.normals[scene.sample_faces] * directions).sum(-1))
    weight = facing / distance**2
    flat = camera.calib.lidar_to_camera(scene.samples.reshape(-1, 3))
    uv, depth = camera.calib.camera_to_image(flat)
    inside = in_image(uv, depth).reshape(count, samples)
    cast = np.flatnonzero(inside.any(axis=1))  # whole objects, at least partly in the picture
    hidden = np.ones((count, samples), dtype=bool)
    if len(cast):
        rays = directions[cast].reshape(-1, 3).astype(np.float32)
        origins = np.broadcast_to(camera.centre.astype(np.float32), rays.shape)
        faces = caster.cast(scene, np.ascontiguousarray(origins), rays)
        seen = np.where(faces >= 0, scene.face_objects[faces], -1).reshape(len(cast), samples)
        hidden[cast] = seen != cast[:, None]
    total = weight.sum(axis=1)
    within = (weight * inside).sum(axis=1)
    occluded = np.where(
        within > 0, (weight * (inside & hidden)).sum(axis=1) / np.maximum(within, 1e-12), 1.0
    )
    return occluded, 1 - within / np.maximum(total, 1e-12)


def make_labels(scene: Scene, hits: IntArray, caster: Caster) -> KittiObjects:
    """Labels of the objects that the camera sees.

    Args:
        scene: the scene.
        hits: (P,) object of each LiDAR point in the camera's view, -1 for the background.
        caster: a ray caster.

    Returns:
        The visible objects with at least ``MIN_POINTS`` LiDAR points, nearest first, then DontCare
        rows for those that only the camera sees.
    """
    camera = kitti_camera()
    count = len(scene.names)
    points = np.bincount(hits[hits >= 0], minlength=count)
    boxes = scene.boxes
    ahead = camera.calib.lidar_to_camera(boxes)[:, 2]
    occluded, truncated = occlusion_and_truncation(scene, caster, camera)
    candidate = (ahead > 0) & (truncated < MAX_TRUNCATION) & (occluded < HIDDEN)
    rows = np.flatnonzero(candidate)
    rows = rows[np.argsort(ahead[rows], kind='stable')]
    rects = (
        np.stack([_rectangle(scene, row, camera) for row in rows]).reshape(-1, 4)
        if len(rows)
        else np.zeros((0, 4))
    )
    labelled = points[rows] >= MIN_POINTS
    care = ~labelled & (rects[:, 3] - rects[:, 1] >= MIN_DONTCARE_HEIGHT)
    level = np.digitize(occluded[rows], (PARTLY, LARGELY))
    objects = _rows(scene, camera, rows[labelled], rects[labelled])
    objects.truncated = truncated[rows[labelled]].round(2) + 0.0
    objects.occluded = level[labelled].astype(np.int64)
    return _append_dontcare(objects, rects[care])


def _rectangle(scene: Scene, row: int, camera: Camera) -> FloatArray:
    """2D box of one object, clipped to the image."""
    rect = project_edges(camera, scene.vertices[scene.faces[scene.face_objects == row]])
    height, width = IMAGE_HW
    return np.clip(rect, 0, [width - 1, height - 1, width - 1, height - 1])


def _rows(scene: Scene, camera: Camera, rows: IntArray, rects: FloatArray) -> KittiObjects:
    boxes = scene.boxes[rows]
    centre = camera.calib.lidar_to_camera(boxes)
    height = boxes[:, 5]
    location = centre + np.array([0.0, 0.5, 0.0]) * height[:, None]
    rotation = _wrap(-boxes[:, 6] - np.pi / 2)
    return KittiObjects(
        names=np.array([scene.names[row] for row in rows], dtype='<U16'),
        truncated=np.zeros(len(rows)),
        occluded=np.zeros(len(rows), dtype=np.int64),
        alpha=_wrap(rotation - np.arctan2(location[:, 0], location[:, 2])),
        bbox=rects,
        dims=boxes[:, [5, 4, 3]],
        location=location,
        rotation_y=rotation,
    )


def _append_dontcare(objects: KittiObjects, rects: FloatArray) -> KittiObjects:
    count = len(rects)

    def join(values: NDArray, fill: float, columns: int = 0) -> NDArray:
        shape = (count, columns) if columns else (count,)
        return np.concatenate([values, np.full(shape, fill, dtype=values.dtype)])

    return KittiObjects(
        names=np.concatenate([objects.names, np.full(count, 'DontCare', dtype='<U16')]),
        truncated=join(objects.truncated, -1),
        occluded=join(objects.occluded, -1),
        alpha=join(objects.alpha, -10),
        bbox=np.concatenate([objects.bbox, rects]),
        dims=join(objects.dims, -1, 3),
        location=join(objects.location, -1000, 3),
        rotation_y=join(objects.rotation_y, -10),
    )


def _wrap(angle: FloatArray) -> FloatArray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
