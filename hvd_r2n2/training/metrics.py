"""What is measured of one reconstructed sample: IoU, cross-entropy, average precision, F-score.

Everything here is per sample; means over samples, categories and ranks are taken in `evaluation.py`, so that they
are exact whatever the shards.

Legend of suffixes: B batch, D voxel side (x, y, z), T thresholds, N flattened voxels (D³), P points.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hvd_r2n2.common.extras import require

F_SCORE_DISTANCE = 0.01
"""Two surface points closer than this share of the volume's side match (Tatarchenko et al. 2019, section 5)."""

F_SCORE_POINTS = 8192
"""Points drawn on each surface, as usual for voxel grids since Pix2Vox++ (Xie et al. 2020)."""


def occupancy_probability(logits_B2DDD: Tensor) -> Tensor:
    """Return the softmax's channel 1 (B×D×D×D), computed in float32, or in float64 for float64 logits."""
    logits_B2DDD = logits_B2DDD if logits_B2DDD.dtype == torch.float64 else logits_B2DDD.float()
    return torch.softmax(logits_B2DDD, dim=1)[:, 1]


def intersection_and_union(
    probability_BDDD: Tensor, occupancy_BDDD: Tensor, thresholds: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Count, per sample and threshold t, the voxels of |p > t ∧ y| and |p > t ∨ y| (int64, each B×T).

    The thresholds are taken in the probability's own precision.
    """
    truth_BN = occupancy_BDDD.flatten(1) > 0
    probability_BN = probability_BDDD.flatten(1)
    predicted_BNs = [probability_BN > threshold for threshold in thresholds]
    intersection_BT = torch.stack([(predicted & truth_BN).sum(1) for predicted in predicted_BNs], dim=1)
    union_BT = torch.stack([(predicted | truth_BN).sum(1) for predicted in predicted_BNs], dim=1)
    return intersection_BT, union_BT


def intersection_over_union(intersection: int, union: int) -> float:
    """Return the quotient; an empty union (nothing there, nothing predicted) is a perfect 1."""
    return intersection / union if union else 1.0


def sample_cross_entropy(logits_B2DDD: Tensor, occupancy_BDDD: Tensor) -> Tensor:
    """Return each sample's two-class softmax cross-entropy in nats, the mean over its voxels (float64, B)."""
    logits_B2DDD = logits_B2DDD if logits_B2DDD.dtype == torch.float64 else logits_B2DDD.float()
    loss_BDDD = torch.nn.functional.cross_entropy(logits_B2DDD, (occupancy_BDDD > 0).long(), reduction="none")
    return loss_BDDD.flatten(1).mean(dim=1, dtype=torch.float64)


def average_precision(probability_BDDD: Tensor, occupancy_BDDD: Tensor) -> Tensor:
    """Return each sample's average precision over its voxels (float64, B).

    `Σ (R_n − R_{n−1}) P_n` over the distinct probabilities from high to low, without interpolation; equal
    probabilities are one threshold. That is `sklearn.metrics.average_precision_score`, which the released code of
    3D-R2N2 reports; like it, a sample without an occupied voxel has 0.
    """
    probability_BN, order_BN = probability_BDDD.flatten(1).sort(dim=1, descending=True, stable=True)
    truth_BN = (occupancy_BDDD.flatten(1) > 0).gather(1, order_BN)
    num_voxels = probability_BN.shape[1]
    position_N = torch.arange(num_voxels, device=probability_BN.device)
    last_of_ties_BN = torch.ones_like(truth_BN)
    last_of_ties_BN[:, :-1] = probability_BN[:, :-1] != probability_BN[:, 1:]
    # The end of the run of ties that a position lies in: the nearest `last` at or after it.
    end_BN = position_N.where(last_of_ties_BN, num_voxels).flip(1).cummin(dim=1).values.flip(1)
    true_positives_BN = truth_BN.cumsum(1)
    precision_BN = true_positives_BN.gather(1, end_BN).double() / (end_BN + 1)
    num_occupied_B = truth_BN.sum(1).clamp(min=1)
    return (precision_BN * truth_BN).sum(1) / num_occupied_B


def f_score(
    predicted_XYZ: npt.NDArray[np.bool_],
    truth_XYZ: npt.NDArray[np.bool_],
    *,
    distance: float = F_SCORE_DISTANCE,
    num_points: int = F_SCORE_POINTS,
) -> float:
    """Return the harmonic mean of precision and recall of the two grids' surfaces, 0 to 1.

    Precision is the share of points on the predicted surface that have a point of the true surface nearer than
    `distance` times the volume's side; recall the same the other way round (Tatarchenko et al., "What Do
    Single-view 3D Reconstruction Networks Learn?", CVPR 2019). As Pix2Vox++ does for voxel grids, a surface is
    marching cubes at level 0.5 over the 0/1 grid, and `num_points` are drawn on it uniformly by area.

    Read it with care: at 8192 points a surface, their spacing is about the distance itself, and two independent
    drawings of one surface score 0.80 to 0.94 (measured on three ShapeNet models). Here both surfaces are drawn with
    the same random numbers: a perfect prediction is exactly 1, and the result a pure function of the two grids.
    Publications differ in mesher and drawing, so their values compare only roughly.

    Two empty grids score 1, one empty grid 0.

    Raises:
        ModuleNotFoundError: scikit-image or scipy (the extra `shapes`) is not installed.
    """
    if not predicted_XYZ.any() or not truth_XYZ.any():
        return float(predicted_XYZ.any() == truth_XYZ.any())
    predicted_P3 = surface_points(predicted_XYZ, num_points)
    truth_P3 = surface_points(truth_XYZ, num_points)
    precision = _share_near(predicted_P3, truth_P3, distance)
    recall = _share_near(truth_P3, predicted_P3, distance)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def require_f_score_libraries() -> None:
    """Raise a ValueError that says what to do unless the libraries that `f_score` needs are installed."""
    try:
        require("skimage.measure")
        require("scipy.spatial")
    except ModuleNotFoundError as error:
        raise ValueError(f"the F-score cannot be measured: {error}; or leave it out with --no-f-score") from error


def surface_points(occupancy_XYZ: npt.NDArray[np.bool_], num_points: int) -> npt.NDArray[np.float64]:
    """Draw points uniformly by area on a non-empty grid's surface: num_points×3 in the unit cube.

    The random numbers are the same for every grid (see `f_score`).
    """
    measure = require("skimage.measure")
    padded_XYZ = np.pad(occupancy_XYZ, 1).astype(np.float32)
    vertices_V3, faces_F3 = measure.marching_cubes(padded_XYZ, 0.5)[:2]
    # A cell's centre has the array's integer coordinates: one cell of padding less, half a cell more.
    corners_F33 = ((vertices_V3.astype(np.float64) - 0.5) / occupancy_XYZ.shape[0])[faces_F3]
    edge_a_F3, edge_b_F3 = corners_F33[:, 1] - corners_F33[:, 0], corners_F33[:, 2] - corners_F33[:, 0]
    area_F = np.linalg.norm(np.cross(edge_a_F3, edge_b_F3), axis=1)
    random_P3 = np.random.Generator(np.random.PCG64(0)).random((num_points, 3))
    cumulative_F = np.cumsum(area_F)
    face_P = np.searchsorted(cumulative_F, random_P3[:, 0] * cumulative_F[-1], side="right")
    along_P2 = random_P3[:, 1:]
    # Fold the half of the parallelogram that is not the triangle back onto it.
    along_P2 = np.where(along_P2.sum(1, keepdims=True) > 1, 1 - along_P2, along_P2)
    points_P3 = corners_F33[face_P, 0] + along_P2[:, :1] * edge_a_F3[face_P] + along_P2[:, 1:] * edge_b_F3[face_P]
    return np.asarray(points_P3, dtype=np.float64)


def _share_near(points_P3: npt.NDArray[np.float64], others_P3: npt.NDArray[np.float64], distance: float) -> float:
    tree = require("scipy.spatial").cKDTree(others_P3)
    # The bound is strict, and without it most of the time goes into neighbours that do not count.
    nearest_P, _ = tree.query(points_P3, distance_upper_bound=distance)
    return float(np.isfinite(nearest_P).mean())
