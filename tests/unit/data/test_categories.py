import pytest

from hvd_r2n2.data.categories import CATEGORIES, find_category


def test_there_are_the_thirteen_categories_of_the_paper_in_the_order_of_their_ids() -> None:
    assert len(CATEGORIES) == 13
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert CATEGORIES["02691156"].name == "aeroplane"
    assert CATEGORIES["04530566"].name == "watercraft"


@pytest.mark.parametrize("key", ["chair", "Chair", "03001627"])
def test_a_category_is_found_by_name_and_by_synset(key: str) -> None:
    assert str(find_category(key)) == "03001627 chair"


def test_an_unknown_category_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"unknown category 'chiar' \(did you mean 'chair'\?\).*04401088 telephone"):
        find_category("chiar")
