"""What hides behind backward, against steps played by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvd_r2n2.scaling.overlap import Fusion, Layer, exchange, fuse

AT_ONCE = Fusion(threshold_bytes=0, cycle_s=0.0)
TWO = (Layer("first", 1.0, 2.0, (10,)), Layer("last", 1.0, 3.0, (20,)))


def test_the_first_layer_is_exposed_for_it_comes_last() -> None:
    # The last layer's 20 bytes go from 3 to 5 s, just as backward ends; the first one's 10 bytes follow until 6 s.
    found = exchange(TWO, lambda size: size / 10, AT_ONCE)
    assert found.sizes == (20, 10)
    assert found.total_s == pytest.approx(3.0)
    assert found.exposed_s == pytest.approx(1.0)


def test_a_slow_network_holds_everything_up() -> None:
    found = exchange(TWO, lambda size: float(size), AT_ONCE)
    assert found.exposed_s == pytest.approx(3 + 20 + 10 - 5)


def test_processors_that_copy_compute_so_much_less() -> None:
    # 2 s of sending at half the pace leave 1 s of the first layer's work: it ends at 6 s, its bytes at 7 s.
    found = exchange(TWO, lambda size: size / 10, AT_ONCE, processor_share=0.5)
    assert found.exposed_s == pytest.approx(7 - 5)


def test_fusion_keeps_the_order_and_the_threshold() -> None:
    assert fuse([4, 4, 4, 20, 1, 1], 10) == [8, 4, 20, 2]
    assert fuse([4, 4], 0) == [4, 4]
    assert fuse([], 10) == []


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    bandwidth=st.floats(1.0, 1e4),
    cycle_s=st.sampled_from([0.0, 0.05, 3.0]),
    threshold=st.sampled_from([0, 500, 10**6]),
)
def test_all_bytes_are_sent_and_no_more_is_exposed_than_is_spent(
    sizes: list[int], bandwidth: float, cycle_s: float, threshold: int
) -> None:
    layers = tuple(Layer(str(number), 0.1, 0.2, (size,)) for number, size in enumerate(sizes))
    found = exchange(layers, lambda size: size / bandwidth, Fusion(threshold, cycle_s))
    assert sum(found.sizes) == sum(sizes)
    assert found.total_s == pytest.approx(sum(sizes) / bandwidth)
    # Ranks may also wait for a cycle to begin.
    assert 0 < found.exposed_s <= found.total_s + 2 * cycle_s + 1e-9
