"""Addresses and numbers that lead to a person: by their shape, and by their check digits.

As in `secret`, every expression takes time in proportion to the text.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from runner.scripts.data.cleaning.masks import Span, masked

# Letters beyond ASCII in names and domains: Latin, Greek and Cyrillic. Scripts that put no space
# around an address are left out: what stands beside it is no part of it. Fixed ranges, since what
# Python calls a letter changes from version to version.
_LETTERS = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u052f\u1e00-\u1fff"
_EMAIL = re.compile(
    rf"(?<![{_LETTERS}0-9._%+-])([{_LETTERS}0-9._%+-]++)"
    rf"@((?:[{_LETTERS}0-9-]{{1,63}}\.){{1,8}}(?:xn--[a-z0-9-]{{2,40}}|[{_LETTERS}]{{2,24}}))"
    rf"(?![{_LETTERS}0-9-])"
)
# Nobody's: RFC 2606 keeps these free, and the user of a repository's address is called git.
_NOBODYS = (
    ".example",
    ".test",
    ".invalid",
    ".localhost",
    "example.com",
    "example.net",
    "example.org",
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,36}+", re.ASCII)
# Country and length of its account numbers, by the registry of ISO 13616.
_ACCOUNTS = """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28
    EE20 EG29 ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26
    IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30
    NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28
    TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
_IBAN_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _ACCOUNTS.split()}
_JOINED = re.compile(r"[A-Za-z0-9]", re.ASCII)
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_CARD = re.compile(r"(?<![A-Za-z0-9.-])[2-6](?:[ -]?[0-9]){12,18}(?![A-Za-z0-9])", re.ASCII)
_ABROAD = re.compile(r"(?<![A-Za-z0-9+])\+[1-9](?:[ ().-]{0,2}[0-9]){7,14}(?![0-9])", re.ASCII)
_AMERICAN = re.compile(
    r"(?<![A-Za-z0-9(.-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}"
    r"(?![A-Za-z0-9-])",
    re.ASCII,
)
# Five pairs that begin with 0, as the French write them: nothing else has this form.
_FRENCH = re.compile(
    r"(?<![A-Za-z0-9.-])0[1-9](?:([ .-])[0-9]{2})(?:\1[0-9]{2}){3}(?![0-9]|\1[0-9])"
)
# By the rules of the Social Security Administration: no area 000, 666 or 900 to 999, no group 00
# and no serial number 0000.
_SSN = re.compile(
    r"(?<![A-Za-z0-9.-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![A-Za-z0-9-])",
    re.ASCII,
)
_VOID_SSN = {"078-05-1120", "219-09-9999"}  # printed in advertisements, and given to nobody
_IPV4 = re.compile(
    r"(?<![A-Za-z0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![A-Za-z0-9]|\.[0-9])", re.ASCII
)
_IPV6 = re.compile(r"(?<![A-Za-z0-9:.])[23][0-9A-Fa-f:]{6,39}+(?![A-Za-z0-9:.])", re.ASCII)
_VERSION = re.compile(
    r"(?:\bv|\bversions?|\brelease|==|>=|<=|~=)\s{0,3}$", re.ASCII | re.IGNORECASE
)
# Nobody's: this host, private, shared, link-local, documentation, benchmarks, multicast, reserved.
_RESERVED = tuple(
    ipaddress.ip_network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "2001:db8::/32"),
        "3fff::/20",
    )
)
_PUBLIC_RESOLVERS = {"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"}


def without_personal_data(text: str) -> str:
    """The text with [EMAIL], [PHONE], [IBAN], [CARD], [SSN] or [IP] over what is one."""
    return masked(text, (personal_data_in,))


def personal_data_in(text: str) -> Iterator[Span]:
    """Where there is personal data, and which."""
    if "@" in text:
        yield from _emails(text)
    if not _DIGIT.search(text):
        return
    yield from _ibans(text)
    for found in _CARD.finditer(text):
        if is_card(found.group()):
            yield (*found.span(), "CARD")
    for found in _SSN.finditer(text):
        if found.group() not in _VOID_SSN:
            yield (*found.span(), "SSN")
    yield from _telephones(text)
    yield from _addresses(text)


def _telephones(text: str) -> Iterator[Span]:
    for pattern, country in ((_ABROAD, None), (_AMERICAN, "US"), (_FRENCH, "FR")):
        for found in pattern.finditer(text):
            if is_telephone(found.group(), country):
                yield (*found.span(), "PHONE")


def _addresses(text: str) -> Iterator[Span]:
    for found in _IPV4.finditer(text):
        before = text[max(0, found.start() - 12) : found.start()]
        if not _VERSION.search(before) and is_somebodys(found.group()):
            yield (*found.span(), "IP")
    for found in _IPV6.finditer(text):
        if found.group().count(":") >= 3 and is_somebodys(found.group()):
            yield (*found.span(), "IP")


def _emails(text: str) -> Iterator[Span]:
    for found in _EMAIL.finditer(text):
        user, host = found.group(1), found.group(2).lower()
        if user != "git" and not f".{host}".endswith(
            tuple(f".{each.lstrip('.')}" for each in _NOBODYS)
        ):
            yield (*found.span(), "EMAIL")


def _ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        written = _first(found.group(), _IBAN_LENGTHS.get(found.group()[:2], 0))
        end = found.start() + len(written)
        if written and not _JOINED.match(text, end) and is_iban(written):
            yield found.start(), end, "IBAN"


def _first(text: str, count: int) -> str:
    """The beginning of `text` with `count` characters in it that are no spaces; "" if shorter."""
    for index, character in enumerate(text):
        if character != " ":
            count -= 1
        if count == 0:
            return text[: index + 1]
    return ""


def is_iban(written: str) -> bool:
    """Do the check digits fit? ISO 13616: the number, letters as 10 to 35, is 1 modulo 97."""
    plain = written.replace(" ", "")
    return int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1


def is_card(written: str) -> bool:
    """13 to 19 digits whose last one fits by Luhn's rule, and which are not all one."""
    digits = [int(each) for each in written if each.isdigit()]
    doubled = [sum(divmod(2 * each, 10)) for each in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def is_telephone(written: str, country: str | None) -> bool:
    """Can it be a number of its country's plan?"""
    import phonenumbers

    try:
        return bool(phonenumbers.is_valid_number(phonenumbers.parse(written, country)))
    except phonenumbers.NumberParseException:
        return False


def is_somebodys(written: str) -> bool:
    """Is it an address of the public network?"""
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    if written in _PUBLIC_RESOLVERS:
        return False
    return not any(address.version == each.version and address in each for each in _RESERVED)
