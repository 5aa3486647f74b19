"""``Preprocess``: what happens to the pixels of one image input before the model sees them."""

from __future__ import annotations

from dataclasses import dataclass

from whet.errors import OptionError, nearest


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the pixels of an image lie in memory, as bytes.

    Attributes:
        planes: bytes of a pixel where all lie together; 0 where brightness and colour lie apart.
        rows: for planes apart, rows of the whole array for two rows of the image.
        order: for each channel that is used, its place among the bytes of a pixel.
        columns: pixels that share one pair of colour values, side by side.
    """

    planes: int
    order: tuple[int, ...]
    rows: int = 2
    columns: int = 1


FORMATS = {
    "RGB888_U8": PixelFormat(3, (0, 1, 2)),
    "XRGB8888_U8": PixelFormat(4, (1, 2, 3)),
    "ARGB8888_U8": PixelFormat(4, (1, 2, 3)),
    "AYUV444_U8": PixelFormat(4, (1, 2, 3)),
    "YUV400_U8": PixelFormat(1, (0,)),
    "YUYV_U8": PixelFormat(2, (0, 1, 2), columns=2),
    "YUV420SP_U8": PixelFormat(0, (0, 1, 2), rows=3, columns=2),
    "YUV422SP_U8": PixelFormat(0, (0, 1, 2), rows=4, columns=2),
}
"""Pixel formats by the names that they have in Ascend's AIPP."""


@dataclass(frozen=True, slots=True)
class Colours:
    """A linear change of colours, in integers: ``clip((M · (x − before) >> 8) + after, 0, 255)``.

    Attributes:
        matrix: M by rows, 256 times the real coefficients.
        before: subtracted from each channel first.
        after: added to each channel at the end.
    """

    matrix: tuple[tuple[int, int, int], ...]
    before: tuple[int, int, int] = (0, 0, 0)
    after: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The way from bytes of a camera or decoder to one input of a model, in this order.

    Attributes:
        input: name of the model's input; its position in text also counts, ``"0"`` is the first.
        pixels: how the bytes lie, a name in ``FORMATS``.
        source: height and width of the picture; what crop, padding and model ask for if not given.
        swap_red_blue: whether red and blue, or U and V, are the other way around.
        swap_alpha: whether the unused channel lies behind the others, not in front of them.
        crop: top, left, height and width of the part that is used.
        resize: height and width that the picture, or its crop, is resized to: bilinear between
            centres of pixels, rounded to whole numbers, half to even.
        colours: a change of colours.
        mean: subtracted from each channel.
        least: subtracted from each channel after ``mean``.
        scale: each channel is multiplied by it at last.
        padding: rows above and below, columns left and right.
        padding_value: what is in them, as the model sees it.
    """

    input: str = "0"
    pixels: str = "RGB888_U8"
    source: tuple[int, int] | None = None
    swap_red_blue: bool = False
    swap_alpha: bool = False
    crop: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    colours: Colours | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    least: tuple[float, ...] = (0.0, 0.0, 0.0)
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    padding: tuple[int, int, int, int] | None = None
    padding_value: float = 0.0

    def __post_init__(self) -> None:
        """Reject what contradicts itself.

        Raises:
            OptionError: a format is unknown, a size is not possible, channels are missing.
        """
        if self.pixels not in FORMATS:
            raise OptionError(
                f"the pixel format {self.pixels!r} is not available",
                where="preprocess",
                hint=nearest(self.pixels, FORMATS),
            )
        sizes = (*(self.source or ()), *(self.crop or ())[2:], *(self.resize or ()))
        if any(size < 1 for size in sizes) or any(start < 0 for start in (self.crop or ())[:2]):
            raise OptionError("a size is 0 or less", where="preprocess", hint="see source and crop")
        if any(rows < 0 for rows in self.padding or ()):
            raise OptionError("padding is negative", where="preprocess", hint="crop instead")
        for name in ("mean", "least", "scale"):
            if len(getattr(self, name)) < 3:
                raise OptionError(f"{name} has no 3 numbers", where="preprocess", hint="give 3")
        if self.swap_alpha and FORMATS[self.pixels].planes != 4:
            raise OptionError(
                f"{self.pixels} has no unused channel to move",
                where="preprocess",
                hint="leave swap_alpha (ax_swap_switch) out",
            )
        self._check_area()

    def _check_area(self) -> None:
        if self.resize and not self.source:
            raise OptionError(
                "the size of the picture is missing, which is resized",
                where="preprocess",
                hint="give source (src_image_size_h and src_image_size_w)",
            )
        if self.source and self.crop:
            top, left, height, width = self.crop
            if top + height > self.source[0] or left + width > self.source[1]:
                raise OptionError(
                    f"the crop {height}×{width} from {top},{left} leaves the picture of "
                    f"{self.source[0]}×{self.source[1]}",
                    where="preprocess",
                    hint="make it smaller",
                )


@dataclass(frozen=True, slots=True)
class DynamicPreprocess:
    """Pictures whose format, size and steps are said when the model runs, by ``aipp_block``.

    The model's input becomes bytes of all pictures of a batch, one behind the other; a further
    input, ``ascend_dynamic_aipp_data``, takes the block.

    Attributes:
        input: name of the model's input, or its position in text.
        source_bytes: most bytes of all pictures of a batch, the size of the input.
    """

    input: str
    source_bytes: int

    def __post_init__(self) -> None:
        """Reject sizes that are not possible.

        Raises:
            OptionError: the size is none, or its places are beyond 32 bits.
        """
        if not 1 <= self.source_bytes < 1 << 31:
            raise OptionError(
                f"max_src_image_size (source_bytes) is {self.source_bytes}",
                where="preprocess",
                hint="give the bytes of the largest batch of pictures, 1 to 2147483647",
            )


Step = Preprocess | DynamicPreprocess


@dataclass(frozen=True, slots=True)
class Placed:
    """A chain of steps with all sizes known, from picture to model.

    Attributes:
        steps: what happens.
        source: height and width of the picture; a name where it is open.
        layout: where batch, channels, height and width of the model's input lie, ``"NCHW"`` or
            ``"NHWC"``.
        channels: channels of the model's input.
    """

    steps: Preprocess
    source: tuple[int | str, int | str]
    layout: str
    channels: int
