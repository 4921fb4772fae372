# ruff: noqa: RUF001  these characters are what is tested
"""What each step of cleaning does to rows, and which rows it must not touch."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.recipe.checks.cleaning import LANGUAGES
from runner.scripts.data.cleaning import language, personal, refusals, repair, secret, web, words
from runner.scripts.data.cleaning.contamination import Measure
from runner.scripts.data.cleaning.pipeline import ORDER, Cleaning
from runner.scripts.data.cleaning.report import Drop, difference
from runner.scripts.data.cleaning.turns import merged
from runner.scripts.data.conversation import Conversation, message
from runner.scripts.data.files.rows import Place
from runner.scripts.data.preference import Judged, Pair

EVERYTHING: dict[str, Any] = {
    "alternation": "merge",
    "web_text": True,
    "unicode": True,
    "whitespace": True,
    "secrets": "mask",
    "personal_data": "mask",
    "min_answer_chars": 2,
    "max_answer_chars": 5000,
    "refusals": True,
    "language": ["en"],
    "exact_duplicates": True,
    "near_duplicates": {"threshold": 0.8},
}
GITHUB = "ghp_" + "aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5"
AWS = "AKIA" + "4XZ7QPLM2RST9UVW"
HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
JWT = f"{HEADER}.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\n"
    + "MIIEpAIBAAKCAQEA7" * 4
    + "\n-----END RSA PRIVATE KEY-----"
)


def talk(*contents: str, line: int = 1) -> Conversation:
    roles = ("user", "assistant")
    turns = tuple(message(roles[n % 2], content) for n, content in enumerate(contents))
    return Conversation(turns, place=Place("a.jsonl", line))


def turns(*pairs: tuple[str, str]) -> Conversation:
    return Conversation(tuple(message(*each) for each in pairs), place=Place("a.jsonl", 1))


def pair(question: str, chosen: str, rejected: str, line: int = 1) -> Pair:
    return Pair(talk(question, chosen), talk(question, rejected)).at(Place("a.jsonl", line))


def after(row: Any, **steps: Any) -> Any:
    """What is left of a row; None where it is dropped."""
    kept, problems = Cleaning(steps).cleaned([row])
    assert problems == []
    return kept[0] if kept else None


def contents(row: Conversation) -> list[str]:
    return [turn["content"] for turn in row.messages]


# --- unicode and whitespace


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("The cafÃ© isnâ€™t open", "The café isn’t open"),
        ("e\u0301te\u0301", "été"),
        ("a\r\nb\u2028c", "a\nb\nc"),
        ("bell\x07", "bell"),
        *(
            (same, same)
            for same in (
                "“quoted”",
                "ﬁne",
                "ＡＢＣ，",
                "&amp;",
                "Ã",
                "naïve — 日本語 👩‍👩‍👧",
                "5 × 3\tx",
            )
        ),
    ],
)
def test_wrong_decodings_are_undone_and_others_stay(given: str, expected: str) -> None:
    assert repair.repaired(given) == expected


def test_a_character_that_a_newer_unicode_brought_is_left_as_it_is() -> None:
    """Else the bytes would depend on the Python that runs."""
    new = "\U000113c2\U000113c2"  # of Unicode 16, where two of them compose to \U000113c5
    assert words.nfc(f"e\u0301{new}") == f"é{new}"
    assert words.folded(f"ÄB{new}") == f"äb{new}"
    assert words.words_of(f"Groß{new}") == ["gross", new[0], new[1]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("  a \n\n\n\n b\t\n", "a\n\n b"),
        ("a\u00a0b\u200bc\ufeff", "a bc"),
        ("def f():\n    return  1   # x", "def f():\n    return  1   # x"),
        ("日\u3000本", "日\u3000本"),
        ("क्\u200dष", "क्\u200dष"),
    ],
)
def test_whitespace_that_nobody_meant_goes(given: str, expected: str) -> None:
    assert repair.tidied(given) == expected


# --- web text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5 &lt; 6 &amp;amp; 7", "5 < 6 & 7"),
        ("<p>Hello <b class='x'>you</b></p>", "\nHello you\n"),
        ("a<script>alert('<p>')</script>b<!-- no -->c", "abc"),
        ("&lt;div&gt;x&lt;/div&gt;", "\nx\n"),
        ("We use cookies to improve this.\nText\nRead more »", "Text"),
        ("a<script>never closed", "anever closed"),
        ("Click here to subscribe!\nText", "Text"),
        *(
            (same, same)
            for same in (
                "List<A> and vector<int> and map<a, b>",
                "<think>hm</think> <|im_start|> <tool_call>",
                "a < b and c > d; AT&T; R&D",
                "Use `<br>` here:\n```\n<p>&amp;</p>\n```",
                "Read more books, he said.\nI accept.",
            )
        ),
    ],
)
def test_what_is_left_of_web_pages_goes(given: str, expected: str) -> None:
    assert web.cleaned(given) == expected


def test_a_row_about_markup_keeps_its_tags() -> None:
    row = talk("How do I break a line in HTML?", "Write <br> where it ends.")
    assert after(row, web_text=True) == row
    assert contents(after(talk("Hi?", "So<br>it is"), web_text=True)) == ["Hi?", "So\nit is"]


def test_a_row_with_nothing_but_navigation_is_dropped() -> None:
    assert after(talk("What?", "Click here to read\n<p></p>"), web_text=True) is None


def test_only_who_talks_is_cleaned_of_web_text() -> None:
    row = turns(("system", "Write <b>bold</b>."), ("user", "<p>Hi</p>"), ("assistant", "Yes."))
    left = after(row, web_text=True, whitespace=True)
    assert contents(left) == ["Write <b>bold</b>.", "Hi", "Yes."]


# --- secrets and personal data


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"use {GITHUB}.", "use [SECRET]."),
        (f"id={AWS}", "id=[SECRET]"),
        (f"Bearer {JWT}", "Bearer [SECRET]"),
        (f"{KEY}\nafter", "[SECRET]\nafter"),
        (KEY[:90] + "\n\nThen!", "[SECRET]\n\nThen!"),
        ("api_key = 'q8Zr4Lk2Xv9Tn5Wb7Jd1'", "api_key = '[SECRET]'"),
        ("postgres://me:hunter22@db/x", "postgres://me:[SECRET]@db/x"),
        ("password: hunter2", "password: [SECRET]"),
        ("Das Passwort: geheim12. Gut.", "Das Passwort: [SECRET]. Gut."),
        ("PWD='s3cr3t!pw'", "PWD='[SECRET]'"),
        ('{"passphrase": "open-sesame-9"}', '{"passphrase": "[SECRET]"}'),
        *(
            (same, same)
            for same in (
                "password: required! pwd: optional, password: min8",
                "password = settings.password2; password = get_password1()",
                "pwd: /home/ann1/runs, pwd=C:\\run1, password=$DB_PASS1, password: password123",
                'password = argv[1], password: {{ pass1234 }}, password = os.environ["PW1"]',
                "ghp_" + "x" * 36,
                "AKIAIOSFODNN7EXAMPLE",
                "sk-learn-is-a-library-for-python",
                "password: correct horse battery staple",
                "token = os.environ['TOKEN_OF_THE_HUB_1']",
                "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
                "http://user:password@host",
                "eyJub3QiOiJhIGtleSJ9.eyJhIjoxfQ.aaaaaaaaaaaaaaaaaaaaaaaa",  # no "alg" in it
                "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            )
        ),
    ],
)
def test_secrets_are_masked_and_what_looks_like_them_is_not(given: str, expected: str) -> None:
    assert secret.without_secrets(given) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ann.b+c@mail.de!", "[EMAIL]!"),
        ("DE89 3704 0044 0532 0130 00 IS MINE", "[IBAN] IS MINE"),
        ("GB82WEST12345698765432", "[IBAN]"),
        ("4111 1111 1111 1111", "[CARD]"),
        ("+49 30 901820, (650) 253-0000", "[PHONE], [PHONE]"),
        (
            "IP address: 5.6.7.8, DNS 8.8.4.4, version 5.6.7.8",
            "IP address: [IP], DNS 8.8.4.4, version 5.6.7.8",
        ),
        ("from 93.184.216.34 and 2a00:1450:4001:81b::200e", "from [IP] and [IP]"),
        ("Jürgen.Müller@bücher.de, пётр@почта.рф", "[EMAIL], [EMAIL]"),
        ("νίκος@xn--jxalpdlp.xn--hxajbheg2az3al!", "[EMAIL]!"),
        ("邮箱是ann@mail.de谢谢", "邮箱是[EMAIL]谢谢"),
        ("SSN 536-22-1234.", "SSN [SSN]."),
        ("01 42 68 53 00 ou 06.12.34.56.78", "[PHONE] ou [PHONE]"),
        *(
            (same, same)
            for same in (
                "000-12-3456 666-12-3456 900-12-3456 536-00-1234 536-22-0000 078-05-1120",
                "1536-22-1234 536-22-12345 2024-05-1234-5",
                "01 42 68.53.00, 01 42 68 53 00 12, 00 42 68 53 00, x@y, ü@ö",
                "bob@example.com, git@github.com:a/b, @ann, a @ b",
                "GB83WEST12345698765432",
                "4111 1111 1111 1112, 0000000000000000",
                "123-456-7890, +1 2, 20261129123456",
                "127.0.0.1 192.168.0.1 8.8.8.8 version 1.2.3.4 v10.4.5.6 1.2.3.4.5 999.1.1.1",
                "12:30:45 std::vector 2001:db8::1 ::1",
            )
        ),
    ],
)
def test_personal_data_is_masked_and_what_looks_like_it_is_not(given: str, expected: str) -> None:
    assert personal.without_personal_data(given) == expected


@pytest.mark.parametrize(("step", "text"), [("secrets", GITHUB), ("personal_data", "a@b.de")])
def test_they_are_found_wherever_they_stand_in_a_row(step: str, text: str) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": [f"see {text}"]}}}
    for row in (
        talk("Who?", f"It is {text}"),
        pair("Who?", "Me.", f"It is {text}"),
        Judged(talk(f"Is it {text}", "Yes."), desirable=False, place=Place("a", 1)),
        Conversation(text=f"It is {text}", place=Place("a", 1)),
        Conversation((message("user", "a"), {**message("assistant", ""), "tool_calls": [call]})),
    ):
        assert after(row, **{step: "drop"}) is None
        masked = after(row, **{step: "mask"})
        assert text not in repr(masked)
        assert type(masked) is type(row)


# --- answers, refusals, language, turns


def test_answers_that_are_too_short_or_too_long_are_left_out() -> None:
    for row, kept in (
        (talk("a?", " b "), False),
        (talk("a?", "bc"), True),
        (talk("a?", "bcdef"), True),
        (talk("a?", "bcdefg"), False),
        (pair("a?", "bc", "b"), False),
        (Conversation(text="bcdefg"), False),
        (Conversation(text="   "), False),
        (talk("a?", ""), False),
    ):
        assert (after(row, min_answer_chars=2, max_answer_chars=5) is not None) == kept, row


def test_a_call_of_a_tool_needs_no_words() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    row = Conversation((message("user", "a"), {**message("assistant", ""), "tool_calls": [call]}))
    assert after(row, min_answer_chars=2) == row


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but as an AI language model, I cannot do that.",
        "I am unable to assist with this request.",
        "Unfortunately, I'm not able to provide this.",
        "As an AI language model, I do not have feelings.",
        "Sorry, I must decline.",
        "I won't be able to assist with that request.",
        "I will not be able to help you here.",
        "Unfortunately, I'm not comfortable helping with that.",
        "I don't feel comfortable providing instructions for this.",
        "I'm afraid I can't help with that.",
        "Es tut mir leid, aber ich kann dir dabei nicht helfen.",
        "Leider kann ich diese Anfrage nicht beantworten.",
        "Dabei kann ich Ihnen leider nicht behilflich sein.",
        "Als KI-Sprachmodell kann ich dazu keine Auskunft geben.",
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Malheureusement, je ne suis pas en mesure de répondre à cette question.",
        "Désolée, je ne peux pas t'aider.",
        "En tant qu'intelligence artificielle, je ne peux pas avoir d'opinion.",
    ],
)
def test_refusals_by_rote_are_left_out(answer: str) -> None:
    assert after(talk("Why?", answer), refusals=True) is None
    assert after(pair("Why?", answer, "Because."), refusals=True) is None
    rejected = pair("Why?", "Because.", answer)
    assert after(rejected, refusals=True) == rejected
    bad = Judged(talk("Why?", answer), desirable=False)
    assert after(bad, refusals=True) == bad


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that. Rest a little.",
        "I cannot recommend this book enough.",
        "Sorry, I can't believe it.",
        "You cannot help it.",
        "I won't be able to attend, so please start without me.",
        "I'm not comfortable on a horse, but my sister is.",
        "Als KI kann ich dir helfen, das Problem zu lösen.",
        "Ich kann das Buch nicht genug loben.",
        "Es tut mir leid, dass du krank bist.",
        "Je suis désolé de l'apprendre. Reposez-vous.",
        "Je ne peux pas vivre sans musique.",
        "A model of language is trained on text. " * 9 + "I cannot help.",
    ],
)
def test_other_answers_are_no_refusals(answer: str) -> None:
    assert not refusals.is_refusal(answer)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("This is plainly an English sentence about cats.", "en"),
        ("THIS IS PLAINLY AN ENGLISH SENTENCE ABOUT CATS.", "en"),
        ("Das ist ein deutscher Satz über Katzen und Hunde.", "de"),
        ("これは日本語の文章です。猫についてたくさん書いています。", "ja"),
        ("Oui.", ""),
        ("```\nint main() { return very_long_name(1); }\n```", ""),
    ],
)
def test_the_language_of_a_text_is_told(text: str, code: str) -> None:
    assert language.language_of(text) == code


def test_rows_in_other_languages_are_left_out() -> None:
    german = talk("Was ist eine Katze?", "Ein Tier, das gerne auf warmen Dächern schläft.")
    assert after(german, language=["en"]) is None
    assert after(german, language=["en", "de"]) == german
    assert after(talk("Wie?", "So."), language=["en"]) is not None


def test_the_recipe_knows_the_languages_that_can_be_told() -> None:
    assert set(language.known()) == LANGUAGES


def test_turns_that_follow_one_another_are_merged_or_dropped() -> None:
    broken = turns(
        ("system", "s"), ("assistant", "Welcome!"), ("user", "a"), ("user", "b"),
        ("assistant", "c"), ("assistant", "d"), ("user", "e"),
    )  # fmt: skip
    assert after(broken, alternation="drop") is None
    whole = turns(("system", "s"), ("user", "a\n\nb"), ("assistant", "c\n\nd"))
    assert after(broken, alternation="merge") == whole
    assert after(whole, alternation="drop") == whole
    assert (
        after(turns(("user", "a"), ("system", "b"), ("assistant", "c")), alternation="merge")
        is None
    )
    tools = turns(
        ("user", "a"), ("assistant", "c"), ("tool", "1"), ("tool", "2"), ("assistant", "d")
    )
    assert after(tools, alternation="merge") == tools


def test_context_and_what_is_trained_on_stay_apart() -> None:
    row = turns(("user", "a"), ("assistant", "b"), ("assistant", "c"))
    mixed = Conversation(row.messages, untrained=frozenset({1}), place=row.place)
    assert after(mixed, alternation="merge") is None
    why = merged(mixed)
    assert isinstance(why, Drop)
    assert why.why == "turn 3 (assistant) follows assistant, of another weight"
    other = merged(turns(("user", "a"), ("system", "b"), ("assistant", "c")))
    assert isinstance(other, Drop)
    assert "weight" not in other.why
    both = Pair(mixed, mixed, row.place)
    assert after(both, alternation="merge") is None


# --- duplicates and contamination


def numbered(rows: list[Any]) -> list[Conversation]:
    return [talk(question, answer, line=line) for line, (question, answer) in enumerate(rows, 1)]


def lines_of(rows: list[Any]) -> list[int]:
    return [row.place.line for row in rows]


LONG = "LoRA is a small trainable update beside the frozen weights of a large language model."


def test_the_first_of_equal_rows_stays() -> None:
    rows = numbered([("a", "b"), ("a", "c"), ("a", "b"), ("A", "b")])
    kept, _ = Cleaning({"exact_duplicates": True}).cleaned(rows)
    assert lines_of(kept) == [1, 2, 4]
    same_line = [talk("a", "b"), talk("a", "b")]  # two rows of a JSON list on one line
    assert len(Cleaning({"exact_duplicates": True}).cleaned(same_line)[0]) == 1


def test_the_first_of_nearly_equal_rows_stays() -> None:
    rows = numbered(
        [("What is LoRA?", LONG), ("what is lora", LONG.replace("large", "big")), ("Why?", "So.")]
    )
    kept, _ = Cleaning({"near_duplicates": {"threshold": 0.8}}).cleaned(rows)
    assert lines_of(kept) == [1, 3]
    kept, _ = Cleaning({"near_duplicates": {"threshold": 1.0}}).cleaned(rows)
    assert lines_of(kept) == [1, 2, 3]


def test_rows_without_words_are_no_near_duplicates() -> None:
    rows = numbered([("?", "!!!"), ("!", "..."), ("+", "-")])
    assert lines_of(Cleaning({"near_duplicates": {"threshold": 0.5}}).cleaned(rows)[0]) == [1, 2, 3]


def test_a_pair_the_other_way_round_and_another_judgement_are_no_duplicates() -> None:
    rows = [
        pair("What is LoRA?", LONG, "A radio for wide areas, with little power."),
        pair("What is LoRA?", "A radio for wide areas, with little power.", LONG),
        Judged(talk("What is it?", LONG), desirable=True),
        Judged(talk("What is it?", LONG), desirable=False),
        Judged(talk("What is it?", LONG), desirable=False),
    ]
    kept, _ = Cleaning({"near_duplicates": {"threshold": 0.8}}).cleaned(rows)
    assert kept == rows[:4]


def test_minhash_gives_the_same_signature_everywhere() -> None:
    """Which rows are compared follows from it. Written down from x86-64."""
    from rensa import RMinHash

    signature = RMinHash(128, 1)
    signature.update(["0lora ", "0ora i"])
    assert signature.digest()[:4] == SIGNATURE


SIGNATURE = [3747486469, 3353675559, 3500820824, 3718860708]


def test_rows_that_hold_what_is_measured_by_are_left_out() -> None:
    measure = Measure(6)
    measure.add(["At what minute does the lab open?", "one two three four five six seven"], "q:1")
    measure.add(["too short it"], "q:2")
    for text, kept in (
        ("Tell me: at what minute does the lab open today", False),  # 6 words of 7
        ("zero ONE, two three four five six", False),
        ("one two three four five", True),
        ("too short it", True),
    ):
        assert isinstance(measure(talk("Hm?", text)), Drop) != kept, text
    short = Measure(13)
    short.add(["Who was born in Ulm?"], "q:1")
    assert isinstance(short(talk("who was born in ulm", "Einstein.")), Drop)
    assert not isinstance(short(talk("who was born in", "Ulm.")), Drop)


@given(
    measured=st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=6),
    row=st.lists(st.sampled_from("abc"), min_size=1, max_size=20),
    ngram=st.integers(4, 6),
)
def test_what_is_found_is_what_comparing_all_runs_finds(
    measured: list[list[str]], row: list[str], ngram: int
) -> None:
    measure = Measure(ngram)
    origin: dict[tuple[str, ...], str] = {}
    for number, told in enumerate(measured):
        measure.add([" ".join(told)], f"q:{number}")
        length = min(len(told), ngram)
        for start in range(len(told) - length + 1 if length >= 4 else 0):
            origin.setdefault(tuple(told[start : start + length]), f"q:{number}")
    runs = (
        tuple(row[start : start + length])
        for start in range(len(row))
        for length in range(ngram, 3, -1)
        if start + length <= len(row)
    )
    first = next((run for run in runs if run in origin), None)
    found = measure(talk("?", " ".join(row)))
    if first is None:
        assert not isinstance(found, Drop)
    else:
        assert isinstance(found, Drop)
        assert found.why == f"holds {len(first)} words of {origin[first]}"
        assert found.text == " ".join(first)


def test_held_out_rows_are_looked_for_in_rows_to_train_on() -> None:
    cleaning = Cleaning({"decontaminate": {"ngram": 8, "validation": True}})
    train, _ = cleaning.cleaned(numbered([("What is LoRA?", LONG), ("Why?", "Because of it.")]))
    held = [talk("Explain.", LONG, line=9)]
    assert lines_of(cleaning.decontaminated(train, held, [])) == [2]
    (step,) = cleaning.measures()["steps"]
    assert step["dropped"] == {"holds what is measured by": 1}
    assert step["examples"][0]["why"] == "holds 8 words of a.jsonl:9"
    assert cleaning.measures()["kept"] == 1
    off = Cleaning({"decontaminate": {"ngram": 8, "validation": False}})
    assert off.decontaminated(train, held, []) == train


# --- all of it


def test_every_step_is_counted_with_examples_and_no_secret() -> None:
    rows = numbered([("What?", f"It is {GITHUB} or a@b.de \u200b ")] * 5)
    cleaning = Cleaning({"whitespace": True, "secrets": "mask", "exact_duplicates": True})
    kept, _ = cleaning.cleaned(rows)
    measures = cleaning.measures()
    assert (measures["rows"], measures["kept"], len(kept)) == (5, 1, 1)
    whitespace, secrets, duplicates = measures["steps"]
    assert [whitespace["changed"], secrets["changed"], duplicates["changed"]] == [5, 5, 0]
    assert duplicates["dropped"] == {"duplicate": 4}
    assert [each["place"] for each in whitespace["examples"]] == [f"a.jsonl:{n}" for n in (1, 2, 3)]
    assert whitespace["examples"][0]["text"] == "… [SECRET] or [EMAIL]  "
    assert whitespace["examples"][0]["now"] == "… [SECRET] or [EMAIL]"
    assert GITHUB not in json.dumps(measures)


def test_an_example_shows_the_place_of_the_change() -> None:
    cleaning = Cleaning({"unicode": True, "secrets": "mask"})
    cleaning.cleaned([talk("What?", f"{'word ' * 50}cafÃ© {'word ' * 50}{GITHUB} it is")])
    unicode, secrets = (step["examples"][0] for step in cleaning.measures()["steps"])
    assert unicode["text"][0] == unicode["text"][-1] == "…"
    assert "cafÃ© word" in unicode["text"]
    assert "café word" in unicode["now"]
    assert secrets["text"] == f"…{'word ' * 4}[SECRET ghp_…, 40 characters] it is"
    assert secrets["now"] == f"…{'word ' * 4}[SECRET] it is"


def test_an_example_of_a_mask_tells_what_lies_under_it_and_does_not_show_it() -> None:
    given = f"c {GITHUB} x ann.b@mail.de"
    cleaning = Cleaning({"personal_data": "mask"})
    cleaning.cleaned([talk("What?", given)])
    (example,) = cleaning.measures()["steps"][0]["examples"]
    # the secret stays in the rows, for no step masks it, and is hidden here all the same
    assert example["text"].endswith("[EMAIL an…, 13 characters]")
    assert example["now"].endswith("characters] x [EMAIL]")
    assert GITHUB[:6] not in json.dumps(example)
    assert difference("c x ab@c.de", "c x [EMAIL]") == (
        "c x [EMAIL a…, 7 characters]",
        "c x [EMAIL]",
    )


def test_a_text_that_looks_like_a_path_is_shown_like_any_other() -> None:
    assert difference("/usr/lib ", "usr/lib") == ("/usr/lib ", "usr/lib")
    assert difference("/usr/lib ", "/usr/lib") == ("/usr/lib ", "/usr/lib")


def test_what_no_step_is_for_stays_a_problem() -> None:
    kept, problems = Cleaning({"unicode": True}).cleaned([talk("a", "")])
    assert kept == []
    assert [problem.error.code for problem in problems] == ["E323"]
    cleaning = Cleaning({"whitespace": True})
    assert cleaning.cleaned([pair("a", "b ", "b")]) == ([], [])
    assert cleaning.measures()["steps"][0]["dropped"] == {"two answers that are the same": 1}


def test_a_pair_whose_prompt_a_repair_takes_is_dropped_for_that() -> None:
    cleaning = Cleaning({"unicode": True})
    assert cleaning.cleaned([pair("\ufeff", "a", "b")]) == ([], [])
    assert cleaning.measures()["steps"][0]["dropped"] == {"an empty prompt": 1}
    _, problems = Cleaning({"unicode": True}).cleaned([pair("", "a", "b")])
    assert [problem.error.code for problem in problems] == ["E322"]


_PIECES = st.sampled_from(
    [
        *(
            "word ",
            "Ã©",
            "&amp;",
            "&lt;p&gt;",
            "<p>",
            "</p>",
            "<br",
            ">",
            "\n",
            "\n\n\n",
            " ",
            "\u200b",
        ),
        *(
            "\u00a0",
            "e\u0301",
            "`",
            "```",
            "Click here to\n",
            "a@b.de",
            "4111 1111 1111 1111",
            GITHUB,
        ),
        *(
            "password=",
            "&#38;",
            "amp;",
            "<!--",
            "-->",
            "\r",
            "\u037e",
            "<script>",
            "</script>",
            "+49",
        ),
        *("30 901820", "93.184.216.34", "://a:b@", KEY, "lt;", "<<p>p>", "â€™", "[", "]", "HTML"),
    ]
)
_TEXTS = st.lists(_PIECES, max_size=12).map("".join)
_ROWS = st.lists(
    st.one_of(
        st.builds(talk, _TEXTS, _TEXTS),
        st.builds(talk, _TEXTS, _TEXTS, _TEXTS, _TEXTS),
        st.builds(pair, _TEXTS, _TEXTS, _TEXTS),
        st.builds(lambda text: Conversation(text=text), _TEXTS),
    ),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(_ROWS, st.sets(st.sampled_from(list(EVERYTHING))))
def test_cleaning_twice_changes_nothing_more(rows: list[Any], names: set[str]) -> None:
    steps = {name: EVERYTHING[name] for name in ORDER if name in names}
    once, _ = Cleaning(steps).cleaned(rows)
    again = Cleaning(steps)
    assert again.cleaned(once) == (once, [])
    assert all(not step["changed"] and not step["dropped"] for step in again.measures()["steps"])


@settings(max_examples=40, deadline=None)
@given(_ROWS)
def test_rows_keep_their_order_and_every_row_is_accounted_for(rows: list[Any]) -> None:
    placed = [
        row.at(Place("a", line)) if isinstance(row, Pair)
        else Conversation(row.messages, row.text, place=Place("a", line))
        for line, row in enumerate(rows, 1)
    ]  # fmt: skip
    cleaning = Cleaning(EVERYTHING)
    kept, problems = cleaning.cleaned(placed)
    assert lines_of(kept) == sorted(set(lines_of(kept)))
    dropped = sum(sum(step["dropped"].values()) for step in cleaning.measures()["steps"])
    assert len(kept) + len(problems) + dropped == len(rows)


HOSTILE = [
    *(
        "a",
        "a.",
        "a@",
        "<",
        "<p ",
        "<script>",
        "&#38;",
        "&amp;",
        "1 ",
        "eyJaaaaaaaaaa.",
        "+1",
        "1.",
    ),
    *("-----BEGIN PRIVATE KEY-----", "password=a", "`", "x  ", "\n", "Ã©", "a:", "<!--", "://a:"),
    *("e\u0301", "-", "ghp_", "\u200b", "Ã\n", "<a", "AB12 ", "2a:", "i'm sorry "),
]
FUNCTIONS: list[Callable[[str], Any]] = [
    web.cleaned,
    repair.repaired,
    repair.tidied,
    secret.without_secrets,
    personal.without_personal_data,
    refusals.is_refusal,
    language.language_of,
    words.words_of,
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_work_grows_no_faster_than_the_text(piece: str) -> None:
    """200,000 characters of what takes an expression longest; quadratic work would take minutes."""
    text = piece * (200_000 // len(piece))
    for function in FUNCTIONS:
        start = time.process_time()
        function(text)
        assert time.process_time() - start < 10, function
