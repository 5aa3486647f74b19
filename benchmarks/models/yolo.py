"""A YOLOv5s-like detector: CSP backbone, SPPF, PAN neck and the decoding head, 640x640."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks.models.layers import conv_bn, ready

SIZE = 640
CLASSES = 80
STRIDES = (8, 16, 32)
ANCHORS = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)
_conv = partial(conv_bn, activation=nn.SiLU)


class Bottleneck(nn.Module):
    """1x1 then 3x3, added to the input in the backbone."""

    def __init__(self, channels: int, *, add: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels, 3))
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        out: torch.Tensor = self.body(x)
        return x + out if self.add else out


class Csp(nn.Module):
    """A cross-stage partial block: two halves, one through bottlenecks, merged by 1x1."""

    def __init__(self, inputs: int, outputs: int, depth: int, *, add: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.long = nn.Sequential(
            _conv(inputs, half), *(Bottleneck(half, add=add) for _ in range(depth))
        )
        self.short = _conv(inputs, half)
        self.merge = _conv(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        out: torch.Tensor = self.merge(torch.cat([self.long(x), self.short(x)], 1))
        return out


class Sppf(nn.Module):
    """Spatial pyramid pooling by repeated 5x5 max pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = _conv(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = _conv(channels * 2, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        levels = [self.reduce(x)]
        for _ in range(3):
            levels.append(self.pool(levels[-1]))
        out: torch.Tensor = self.merge(torch.cat(levels, 1))
        return out


class Detect(nn.Module):
    """Predicts and decodes boxes: centres from the grid, sizes from the anchors."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.values = CLASSES + 5
        self.heads = nn.ModuleList(nn.Conv2d(c, 3 * self.values, 1) for c in channels)
        for level, stride in enumerate(STRIDES):
            cells = torch.arange(SIZE // stride, dtype=torch.float32)
            rows, columns = torch.meshgrid(cells, cells, indexing="ij")
            grid = torch.stack([columns, rows], -1)[None, None] - 0.5
            self.register_buffer(f"grid{level}", grid)
            anchors = torch.tensor(ANCHORS[level], dtype=torch.float32)
            self.register_buffer(f"anchors{level}", anchors.view(1, 3, 1, 1, 2))

    def _decode(self, level: int, raw: torch.Tensor) -> torch.Tensor:
        batch, _, height, width = raw.shape
        cells = raw.view(batch, 3, self.values, height, width).permute(0, 1, 3, 4, 2)
        centre, size, scores = torch.split(cells.sigmoid(), [2, 2, CLASSES + 1], 4)
        centre = (centre * 2 + self.get_buffer(f"grid{level}")) * STRIDES[level]
        size = (size * 2) ** 2 * self.get_buffer(f"anchors{level}")
        boxes = torch.cat([centre, size, scores], 4)
        return boxes.view(batch, 3 * height * width, self.values)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Map the three feature maps to (N, boxes, 5 + classes)."""
        raws = [head(level) for head, level in zip(self.heads, levels, strict=True)]
        return torch.cat([self._decode(i, raw) for i, raw in enumerate(raws)], 1)


def _upsampled(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Yolo(nn.Module):
    """Backbone, neck and head at width 0.5 and depth 0.33."""

    def __init__(self) -> None:
        super().__init__()
        self.to8 = nn.Sequential(
            _conv(3, 32, 6, stride=2),
            _conv(32, 64, 3, stride=2),
            Csp(64, 64, 1),
            _conv(64, 128, 3, stride=2),
            Csp(128, 128, 2),
        )
        self.to16 = nn.Sequential(_conv(128, 256, 3, stride=2), Csp(256, 256, 3))
        self.to32 = nn.Sequential(_conv(256, 512, 3, stride=2), Csp(512, 512, 1), Sppf(512))
        self.lateral32 = _conv(512, 256)
        self.up16 = Csp(512, 256, 1, add=False)
        self.lateral16 = _conv(256, 128)
        self.up8 = Csp(256, 128, 1, add=False)
        self.down16 = _conv(128, 128, 3, stride=2)
        self.out16 = Csp(256, 256, 1, add=False)
        self.down32 = _conv(256, 256, 3, stride=2)
        self.out32 = Csp(512, 512, 1, add=False)
        self.detect = Detect((128, 256, 512))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, 640, 640) to (N, 25200, 85)."""
        level8 = self.to8(x)
        level16 = self.to16(level8)
        top = self.lateral32(self.to32(level16))
        middle = self.lateral16(self.up16(torch.cat([_upsampled(top), level16], 1)))
        small = self.up8(torch.cat([_upsampled(middle), level8], 1))
        medium = self.out16(torch.cat([self.down16(small), middle], 1))
        large = self.out32(torch.cat([self.down32(medium), top], 1))
        out: torch.Tensor = self.detect([small, medium, large])
        return out


def yolov5s() -> nn.Module:
    """Return the detector."""
    return ready(Yolo(), SIZE, eps=1e-3)
