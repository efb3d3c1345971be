"""The doctor's trial of two ranks: nothing of it stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvd_r2n2.comm import diagnosis
from tests.running_job import assert_gone

LAUNCHER = """#!/bin/sh
sleep 600 &
echo $! $$ > {pids}
{then}
wait
"""


@pytest.mark.parametrize("is_interrupted", [True, False])
def test_ranks_of_a_trial_end_with_it(is_interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, pids = tmp_path / "launcher", tmp_path / "pids"
    launcher.write_text(LAUNCHER.format(pids=pids, then="sleep 1; kill -INT $PPID" if is_interrupted else ""))
    launcher.chmod(0o755)
    monkeypatch.setattr(diagnosis, "find_launcher", lambda name: launcher)
    if is_interrupted:
        with pytest.raises(KeyboardInterrupt):
            diagnosis._trial_launch()
    else:
        monkeypatch.setattr(diagnosis, "_SELF_TEST_LIMIT_S", 1)
        assert [finding.text for finding in diagnosis._trial_launch()] == ["no answer within 1 s"]
    assert_gone([int(pid) for pid in pids.read_text().split()])
