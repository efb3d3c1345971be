import math

import numpy as np
import pytest

from hvd_r2n2.data.camera import Camera, draw_cameras, format_metadata, parse_metadata


def test_a_camera_stands_where_the_formula_of_the_metadata_says() -> None:
    # d = 0.8 × 1.75 = 1.4; el = 30°: cos = √3/2, sin = 1/2; az = 90° is the +z axis.
    np.testing.assert_allclose(Camera(0, 0, 0.8).position(), (1.4, 0, 0), atol=1e-12)
    np.testing.assert_allclose(Camera(90, 30, 0.8).position(), (0, 0.7, 1.4 * math.sqrt(3) / 2), atol=1e-12)
    np.testing.assert_allclose(Camera(180, 0, 1.0).position(), (-1.75, 0, 0), atol=1e-12)


def test_points_fall_where_the_lens_puts_them() -> None:
    # From +x at d = 1.75 the picture's plane through the origin is y-z; the 35 mm lens before a 32 mm sensor shows
    # 1.75 × 32 / 35 = 1.6 of it over 137 pixels. Seen from +x with y up, +z is to the left.
    points_N3 = np.array([(0, 0, 0), (0, 0.8, 0), (0, 0, 0.8), (0, -0.4, -0.4), (0.75, 0.1, 0)])
    pixels_N2, depth_N = Camera(0, 0, 1.0).project(points_N3)
    expected_N2 = [(68.5, 68.5), (68.5, 0), (0, 68.5), (68.5 + 34.25, 68.5 + 34.25), (68.5, 68.5 - 137 / 1.6 * 0.175)]
    np.testing.assert_allclose(pixels_N2, expected_N2, atol=1e-9)
    np.testing.assert_allclose(depth_N, (1.75, 1.75, 1.75, 1.75, 1.0), atol=1e-12)


def test_the_world_turns_to_the_right_hand_side_with_azimuth() -> None:
    # From azimuth 90 (+z) the front (+x) is to the right; the bottom of an object stays below its top.
    pixels_N2, _ = Camera(90, 27, 0.8).project(np.array([(0.2, 0, 0), (0, 0.2, 0), (0, -0.2, 0)]))
    assert pixels_N2[0, 0] > 80
    assert pixels_N2[1, 1] < 68.5 < pixels_N2[2, 1]


def test_rays_through_a_points_pixel_pass_through_the_point() -> None:
    camera = Camera(211.5, 27.1, 0.898900446455, in_plane_deg=20)
    points_N3 = np.random.default_rng(0).uniform(-0.4, 0.4, (50, 3))
    pixels_N2, depth_N = camera.project(points_N3, image_size=64)
    directions_N3 = camera.ray_directions(pixels_N2, image_size=64)
    towards_N3 = points_N3 - camera.position()
    lengths_N1 = np.linalg.norm(towards_N3, axis=1, keepdims=True)
    np.testing.assert_allclose(directions_N3, towards_N3 / lengths_N1, atol=1e-12)
    np.testing.assert_allclose(depth_N, towards_N3 @ camera.axes()[2], atol=1e-12)


def test_the_axes_are_a_right_handed_frame() -> None:
    right, up, forward = Camera(301.2, 28.8, 0.7).axes()
    np.testing.assert_allclose(np.cross(right, up), -forward, atol=1e-12)
    np.testing.assert_allclose([np.dot(right, up), right[1]], 0, atol=1e-12)


def test_drawn_cameras_keep_to_the_ranges_of_the_original() -> None:
    cameras = draw_cameras(np.random.default_rng(3), 4000)
    azimuths_deg = np.array([camera.azimuth_deg for camera in cameras])
    elevations_deg = np.array([camera.elevation_deg for camera in cameras])
    ratios = np.array([camera.distance_ratio for camera in cameras])
    for values, low, high in ((azimuths_deg, 0, 360), (elevations_deg, 25, 30), (ratios, 0.65, 0.95)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() < high
        # The mean of 4,000 uniform draws lies within 5 standard errors of the middle.
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 4000)
    assert {camera.in_plane_deg for camera in cameras} == {0.0}


def test_metadata_lines_say_the_cameras_exactly() -> None:
    cameras = draw_cameras(np.random.default_rng(0), 24)
    text = format_metadata(cameras)
    assert parse_metadata(text.splitlines()) == cameras
    assert all(line.split()[2] == "0" and line.split()[4] == "25" for line in text.splitlines())


def test_a_published_metadata_line_is_read() -> None:
    (camera,) = parse_metadata(["211.591415302 27.1195261634 0 0.898900446455 25\n", "\n"])
    assert camera == Camera(211.591415302, 27.1195261634, 0.898900446455, 0.0)


@pytest.mark.parametrize("line", ["1 2 3 4", "1 2 0 0.7 25 9", "a 2 0 0.7 25", "nan 25 0 0.7 25"])
def test_a_broken_metadata_line_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="meta.txt, line 2: .*five numbers"):
        parse_metadata(["1 26 0 0.7 25", line], "meta.txt")
