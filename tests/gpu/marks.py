"""What needs a GPU, and why it is skipped where there is none."""

from __future__ import annotations

import pytest
import torch

_BUILD = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch sees no CUDA device{_BUILD}"),
]
