"""Train 3D-R2N2 (pictures to voxel shapes), data parallel over Horovod ranks."""

__version__ = "0.1.0"
