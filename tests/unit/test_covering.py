"""The few cases of the matrix that run every day hold every pair of values of the whole."""

from __future__ import annotations

from itertools import combinations, product

import pytest

from tests import matrix_cases
from tests.covering import covering, pairs
from tests.matrix_cases import ALL, EVERY_DAY, FILES, row_of


def every_pair(rows: list[tuple[str, ...]]) -> set[tuple[int, str, int, str]]:
    return set().union(*(pairs(row) for row in rows))


@pytest.mark.parametrize(
    ("sizes", "most"), [((2, 2, 2), 4), ((3, 3, 3, 3), 12), ((5, 4, 2, 2), 20), ((2,) * 10, 10)]
)
def test_a_covering_has_every_pair_and_few_rows(sizes: tuple[int, ...], most: int) -> None:
    table = list(product(*([f"{size}-{n}" for n in range(size)] for size in sizes)))
    few = covering(table)
    assert every_pair(few) == every_pair(table)
    assert len(few) <= most
    assert few == [row for row in table if row in set(few)]


def test_what_occurs_in_no_row_need_not_be_covered() -> None:
    table = [row for row in product("ab", "xy", "01") if row[:2] != ("a", "y")]
    few = covering(table)
    assert every_pair(few) == every_pair(table)
    assert (0, "a", 1, "y") not in every_pair(few)


def test_the_cases_of_every_day_hold_every_pair_of_the_matrix() -> None:
    few = every_pair([row_of(case) for case in EVERY_DAY])
    dimensions = (
        matrix_cases.ARCHITECTURES,
        matrix_cases.EMBEDDINGS,
        matrix_cases.STORAGE,
        matrix_cases.METHODS,
        matrix_cases.REACHES,
        tuple(FILES),
    )
    wanted = {
        (i, one, j, other)
        for i, j in combinations(range(len(dimensions)), 2)
        for one, other in product(dimensions[i], dimensions[j])
    }
    impossible = {(0, name, 1, "untied") for name in matrix_cases.ALWAYS_TIED}
    assert few == wanted - impossible
    assert (len(EVERY_DAY), len(ALL)) == (21, 696)
    assert len({case.name for case in ALL}) == len(ALL)
