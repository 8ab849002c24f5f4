"""Targets made of the pixels themselves."""

from torch import Tensor

from mmjepa.registry import MODELS


@MODELS.register_module()
class PixelTargets:
    """Normalised pixels of every tubelet, as in VideoMAE (arXiv 2203.12602).

    (v - mean) / (sqrt(var) + 1e-6) over the pixels of a tubelet, for every colour by itself, with
    the unbiased variance; then flat in the order time, row, column, colour. Colours that were
    normalised before give the same targets (but for the 1e-6, which VideoMAE adds to colours in
    [0, 1]), and flat tubelets exact zeros.

    Args:
        tubelet_size: frames of a tubelet.
        patch_size: pixels of its sides.
        in_channels: C, colours.

    Attributes:
        out_channels: values of a tubelet.

    Raises:
        ValueError: a tubelet of one pixel, which has no variance.
    """

    def __init__(self, tubelet_size: int = 2, patch_size: int = 16, in_channels: int = 3):
        self.tubelet_size, self.patch_size = tubelet_size, patch_size
        self.pixels = tubelet_size * patch_size**2
        if self.pixels < 2:
            raise ValueError(f'tubelets of {self.pixels} pixels have no variance')
        self.out_channels = self.pixels * in_channels

    def __call__(self, videos: Tensor) -> Tensor:
        """Clips -> targets.

        Args:
            videos: (B, C, T, H, W), whole tubelets.

        Returns:
            (B, L, P * C) float32, time by time, row by row, with P pixels a tubelet.

        Raises:
            ValueError: clips that aren't whole tubelets.
        """
        sizes = (self.tubelet_size, self.patch_size, self.patch_size)
        if any(n % k for n, k in zip(videos.shape[2:], sizes, strict=True)):
            raise ValueError(
                f'clips of {" x ".join(map(str, videos.shape[2:]))} (frames, rows, columns) are '
                f'not whole tubelets of {" x ".join(map(str, sizes))}'
            )
        parts = videos.float()
        for axis in (2, 1, 0):
            parts = parts.unflatten(2 + axis, (-1, sizes[axis]))
        # B, C, t, p0, h, p1, w, p2 -> B, L, P, C
        parts = parts.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6).flatten(1, 3)
        parts = parts - parts[:, :, :1]  # so that rounding makes nothing of a flat tubelet
        deviation = parts.std(2, keepdim=True)
        return ((parts - parts.mean(2, keepdim=True)) / (deviation + 1e-6)).flatten(2)
