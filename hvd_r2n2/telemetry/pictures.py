"""Pictures for people: voxel grids as shaded cubes, and inputs beside truth and prediction.

A grid is drawn by its exposed faces, farthest first (painter's order), in orthographic projection. The camera is
given as ShapeNet's renderings give theirs, so that a grid and a photograph can be drawn from the same side.

Legend of suffixes: XYZ grid axes (y up), H height, W width, C colours (RGB or RGBA), F faces, 3 x, y, z.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]

BACKGROUND = (250, 250, 248)
_INK = (70, 74, 82)
_WRONG = (190, 50, 40)
_LOW_COLOUR = np.array((58.0, 110.0, 165.0))
_HIGH_COLOUR = np.array((126.0, 186.0, 205.0))
_OVERSAMPLING = 2
_MARGIN = 0.04
_OCCLUSION_PER_NEIGHBOUR = 0.06
_EDGE_SHADE = 0.82
_SMALLEST_OUTLINED = 4
_TOP_LIGHT, _LEFT_LIGHT, _RIGHT_LIGHT = 1.0, 0.80, 0.62
_GAP = 6
_HEADING_HEIGHT = 22
_CAPTIONED_SIZE, _CAPTIONED_COLUMNS = 160, 8


@dataclass(frozen=True)
class _View:
    """An orthographic camera: unit vectors to the right and up in the picture, and towards the camera.

    The point `centre_3` (in cells from the grid's corner) comes to the middle, a cell's side to `scale` pixels.
    """

    right_3: npt.NDArray[np.float64]
    up_3: npt.NDArray[np.float64]
    towards_3: npt.NDArray[np.float64]
    centre_3: npt.NDArray[np.float64]
    scale: float
    size: int

    def pixels(self, points_3: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the pixel x, y (…×2) of points …×3."""
        relative_3 = points_3 - self.centre_3
        x, y = relative_3 @ self.right_3, relative_3 @ self.up_3
        return np.stack((self.size / 2 + self.scale * x, self.size / 2 - self.scale * y), axis=-1)


def draw_voxels(
    occupancy_XYZ: npt.ArrayLike,
    size: int = 256,
    *,
    azimuth: float = 45.0,
    elevation: float = 30.0,
    frame_XYZ: npt.ArrayLike | None = None,
) -> Picture:
    """Draw a grid (D×D×D, true or non-zero is occupied, y up) as shaded cubes: uint8 size×size×3.

    `azimuth` and `elevation`, in degrees, are those of `rendering_metadata.txt`: the camera is seen from the grid's
    centre in the direction (cos el·cos az, sin el, cos el·sin az). The picture shows the whole volume, or the box
    around what is occupied in `frame_XYZ`; its scale and centre are the same for every azimuth, so that pictures
    with the same frame can be compared.

    Raises:
        ValueError: the grid is not cubic, the frame is of another shape, `size` is not positive or `elevation` is not
            above 0 and at most 90.
    """
    occupied_XYZ = np.asarray(occupancy_XYZ) > 0
    framed_XYZ = np.ones_like(occupied_XYZ) if frame_XYZ is None else np.asarray(frame_XYZ) > 0
    if occupied_XYZ.ndim != 3 or len(set(occupied_XYZ.shape)) != 1:
        raise ValueError(f"a voxel grid to draw must be cubic, D×D×D, not {'×'.join(map(str, occupied_XYZ.shape))}")
    if framed_XYZ.shape != occupied_XYZ.shape:
        raise ValueError(f"the frame's shape {framed_XYZ.shape} is not the grid's {occupied_XYZ.shape}")
    if size < 1:
        raise ValueError(f"a picture of {size} pixels cannot be drawn: size must be at least 1")
    if not 0 < elevation <= 90:
        raise ValueError(f"elevation {elevation:g} degrees: voxels are drawn from above, 0 < elevation <= 90")
    canvas = Image.new("RGB", (size * _OVERSAMPLING,) * 2, BACKGROUND)
    view = _view(azimuth, elevation, framed_XYZ, size * _OVERSAMPLING)
    _paint_faces(ImageDraw.Draw(canvas), occupied_XYZ, view)
    return np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.uint8)


def reconstruction_picture(
    images: Sequence[npt.NDArray[np.uint8]],
    truth_XYZ: npt.ArrayLike | None,
    prediction_XYZ: npt.ArrayLike,
    titles: Sequence[str] | None = None,
    *,
    size: int = 192,
    azimuths: Sequence[float] = (45.0,),
) -> Picture:
    """Draw one row: the inputs (uint8 H×W×3, or H×W×4 over the background), the truth if known, the prediction.

    Truth and prediction are drawn once an azimuth, in a frame around both. `titles` are the headings of the cells,
    from left to right; without them there are none.
    """
    return reconstruction_grid([(images, truth_XYZ, prediction_XYZ)], titles, size=size, azimuths=azimuths)


def reconstruction_grid(
    samples: Sequence[tuple[Sequence[npt.NDArray[np.uint8]], npt.ArrayLike | None, npt.ArrayLike]],
    titles: Sequence[str] | None = None,
    *,
    size: int = 192,
    azimuths: Sequence[float] = (45.0,),
) -> Picture:
    """Draw one row a sample, each (inputs, truth or None, prediction) as for `reconstruction_picture`.

    Raises:
        ValueError: no samples, rows of different length, or another number of titles than columns.
    """
    rows = [_cells(images, truth, prediction, size, azimuths) for images, truth, prediction in samples]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1:
        raise ValueError(f"the rows of one picture must have the same number of cells, not {sorted(lengths)}")
    num_columns = lengths.pop()
    if titles is not None and len(titles) != num_columns:
        raise ValueError(f"{len(titles)} titles for {num_columns} columns")
    top = _GAP + (_HEADING_HEIGHT if titles else 0)
    sheet = Image.new("RGB", (_GAP + num_columns * (size + _GAP), top + len(rows) * (size + _GAP)), BACKGROUND)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            sheet.paste(cell, (_GAP + column * (size + _GAP), top + row * (size + _GAP)))
    if titles:
        font = ImageFont.load_default(size=13)
        draw = ImageDraw.Draw(sheet)
        for column, title in enumerate(titles):
            centre = _GAP + column * (size + _GAP) + size / 2
            draw.text((centre, _GAP + _HEADING_HEIGHT / 2), title, fill=_INK, font=font, anchor="mm")
    return np.asarray(sheet, dtype=np.uint8)


def captioned_grid(samples: Sequence[tuple[npt.NDArray[np.uint8], str, bool]]) -> Picture:
    """Draw pictures (uint8 H×W×4, over the background) in rows, each above its caption: red where that is wrong.

    Raises:
        ValueError: no pictures.
    """
    if not samples:
        raise ValueError("there are no pictures to draw")
    size, columns = _CAPTIONED_SIZE, min(_CAPTIONED_COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    width, height = size + _GAP, size + _HEADING_HEIGHT + _GAP
    sheet = Image.new("RGB", (_GAP + columns * width, _GAP + rows * height), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (image_HWC, caption, is_right) in enumerate(samples):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        sheet.paste(_input_cell(image_HWC, size), (left, top))
        middle = (left + size / 2, top + size + _HEADING_HEIGHT / 2)
        draw.text(middle, caption, fill=_INK if is_right else _WRONG, font=font, anchor="mm")
    return np.asarray(sheet, dtype=np.uint8)


def _view(azimuth: float, elevation: float, framed_XYZ: npt.NDArray[np.bool_], size: int) -> _View:
    az, el = math.radians(azimuth), math.radians(elevation)
    towards_3 = np.array((math.cos(el) * math.cos(az), math.sin(el), math.cos(el) * math.sin(az)))
    right_3 = np.array((math.sin(az), 0.0, -math.cos(az)))
    cells_F3 = np.argwhere(framed_XYZ if framed_XYZ.any() else np.ones_like(framed_XYZ))
    low_3, high_3 = cells_F3.min(axis=0), cells_F3.max(axis=0) + 1
    width, height, depth = (high_3 - low_3).tolist()
    # The box turned about its vertical axis stays within a cylinder, whose outline is this wide and high.
    diameter = math.hypot(width, depth)
    extent = max(diameter, height * math.cos(el) + diameter * math.sin(el))
    scale = size * (1 - 2 * _MARGIN) / extent
    return _View(right_3, np.cross(towards_3, right_3), towards_3, (low_3 + high_3) / 2, scale, size)


def _paint_faces(draw: ImageDraw.ImageDraw, occupied_XYZ: npt.NDArray[np.bool_], view: _View) -> None:
    top = max(occupied_XYZ.shape[1] - 1, 1)
    padded_XYZ = np.pad(occupied_XYZ, 1)
    corners, colours = [], []
    for axis in range(3):
        facing = float(view.towards_3[axis])
        if abs(facing) < 1e-9:
            continue  # seen edge-on
        sign = 1 if facing > 0 else -1
        cells_F3, neighbours_F = _exposed_faces(padded_XYZ, axis, sign)
        corners.append(_face_corners(cells_F3, axis, sign))
        colours.append(_shade(cells_F3[:, 1] / top, neighbours_F, _light(axis, sign, view)))
    corners_F43 = np.concatenate(corners)
    order_F = np.argsort(corners_F43.mean(axis=1) @ view.towards_3, kind="stable")
    polygons = view.pixels(corners_F43)[order_F].reshape(-1, 8).tolist()
    fills_F3 = np.concatenate(colours)[order_F]
    # Cubes of a few pixels show no edges: the lines would be all one sees.
    edges_F3 = fills_F3 * (_EDGE_SHADE if view.scale >= _SMALLEST_OUTLINED else 1)
    fills, edges = fills_F3.astype(int).tolist(), edges_F3.astype(int).tolist()
    for polygon, fill, edge in zip(polygons, fills, edges, strict=True):
        draw.polygon(polygon, fill=tuple(fill), outline=tuple(edge))


def _exposed_faces(
    padded_XYZ: npt.NDArray[np.bool_], axis: int, sign: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the cells whose face along `sign`·`axis` is free, and count what surrounds the free cell before it.

    The count (0 to 8) is of occupied cells around the free one in its layer: what keeps light away.
    """
    before_XYZ = np.roll(padded_XYZ, -sign, axis=axis)  # the padding keeps the roll from wrapping cells around
    exposed_XYZ = padded_XYZ & ~before_XYZ
    layer_axes = [other for other in range(3) if other != axis]
    around_XYZ = before_XYZ.astype(np.int64)
    for other in layer_axes:
        around_XYZ = around_XYZ + np.roll(around_XYZ, 1, axis=other) + np.roll(around_XYZ, -1, axis=other)
    cells_F3 = np.argwhere(exposed_XYZ)
    return cells_F3 - 1, around_XYZ[exposed_XYZ]


def _face_corners(cells_F3: npt.NDArray[np.int64], axis: int, sign: int) -> npt.NDArray[np.float64]:
    """Return the four corners, in order around the face (F×4×3), in units of cells from the grid's corner."""
    first, second = (other for other in range(3) if other != axis)
    offsets_43 = np.zeros((4, 3))
    offsets_43[:, axis] = max(sign, 0)
    offsets_43[:, first] = (0, 1, 1, 0)
    offsets_43[:, second] = (0, 0, 1, 1)
    return np.asarray(cells_F3[:, None, :] + offsets_43[None], dtype=np.float64)


def _light(axis: int, sign: int, view: _View) -> float:
    """Return a face direction's brightness: the light comes from above and from the left of the camera."""
    if axis == 1:
        return _TOP_LIGHT
    leftness = -sign * float(view.right_3[axis])  # -1 faces right, 1 faces left
    return _RIGHT_LIGHT + (_LEFT_LIGHT - _RIGHT_LIGHT) * (leftness + 1) / 2


def _shade(
    height_F: npt.NDArray[np.float64], neighbours_F: npt.NDArray[np.int64], light: float
) -> npt.NDArray[np.float64]:
    colour_F3 = _LOW_COLOUR + (_HIGH_COLOUR - _LOW_COLOUR) * height_F[:, None]
    return np.asarray(colour_F3 * light * (1 - _OCCLUSION_PER_NEIGHBOUR * neighbours_F[:, None]))


def _cells(
    images: Sequence[npt.NDArray[np.uint8]],
    truth_XYZ: npt.ArrayLike | None,
    prediction_XYZ: npt.ArrayLike,
    size: int,
    azimuths: Sequence[float],
) -> list[Image.Image]:
    grids = [prediction_XYZ] if truth_XYZ is None else [truth_XYZ, prediction_XYZ]
    frame_XYZ = np.any([np.asarray(grid) > 0 for grid in grids], axis=0)
    drawn = [draw_voxels(grid, size, azimuth=azimuth, frame_XYZ=frame_XYZ) for grid in grids for azimuth in azimuths]
    return [_input_cell(image, size) for image in images] + [Image.fromarray(picture) for picture in drawn]


def _input_cell(image_HWC: npt.NDArray[np.uint8], size: int) -> Image.Image:
    picture = Image.fromarray(image_HWC).convert("RGBA")
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    cell = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
    cell.alpha_composite(picture)
    return cell.convert("RGB")
