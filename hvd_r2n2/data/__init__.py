"""Data: file formats, built-in shapes, rendering, voxels, augmentation, sampler, loader."""
