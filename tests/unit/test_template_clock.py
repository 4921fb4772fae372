"""Chat templates and the date."""

from __future__ import annotations

import datetime

import pytest

from runner.scripts.data.tokens.template_clock import PINNED, as_text, check_no_clock, pinned
from runner.scripts.spec import ScriptError


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ('{{ strftime_now("%d %b %Y") }}', '{{ "26 Jul 2024" }}'),
        ("{{ strftime_now( '%Y-%m-%d' ) }}", '{{ "2024-07-26" }}'),
        ("{{ strftime_now('%B %d, %Y, %H:%M') }}", '{{ "July 26, 2024, 00:00" }}'),
        ("{{ strftime_now('\"%a\"') }}", '{{ "\\"Fri\\"" }}'),
        ("{% if strftime_now is defined %}x{% endif %}", None),
        ("no date", None),
    ],
)
def test_calls_become_texts_and_the_rest_stays(template: str, expected: str | None) -> None:
    assert pinned(template) == (template if expected is None else expected)
    check_no_clock(pinned(template))


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now(form) }}",
        "{{ strftime_now }}",
        "{% set now = strftime_now %}{{ now('%Y') }}",
    ],
)
def test_what_cannot_be_pinned_is_refused(template: str) -> None:
    with pytest.raises(ScriptError) as caught:
        check_no_clock(pinned(template))
    assert caught.value.code == "E557"
    assert "strftime_now" in caught.value.message


def test_names_of_days_and_months_are_english_without_the_machines_locale() -> None:
    assert as_text(PINNED, "%A %a %B %b %d %Y") == "Friday Fri July Jul 26 2024"
    assert as_text(datetime.date(2025, 1, 5), "%A %a %B %b") == "Sunday Sun January Jan"
