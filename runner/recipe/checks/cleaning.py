"""Rules about `data.clean`: its steps can be done, and do something."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.model import Recipe

# Those that the environment `data` can tell, by their ISO 639 codes.
_CODES = """
    ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en eo es et
    eu ext fa fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id
    ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt ltg lv mg mk ml mn mr ms
    mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro ru rw sa sdh se si sk sl sn so sq sr
    st sv sw ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yo yue zh zu
"""
LANGUAGES = frozenset(_CODES.split())


@check("data")
def languages_are_known(recipe: Recipe) -> Iterator[Finding]:
    """A code that is never found would leave every row out."""
    for number, code in enumerate(recipe.data.clean.language if recipe.data.clean else ()):
        if code not in LANGUAGES:
            message, hint = f"the language {code} cannot be told", "docs/data.md lists the codes"
            yield Finding("E252", f"/data/clean/language/{number}", message, hint)


@check("data")
def lengths_leave_answers(recipe: Recipe) -> Iterator[Finding]:
    """No answer is shorter than the longest and longer than the shortest."""
    clean = recipe.data.clean
    if clean and clean.max_answer_chars and clean.max_answer_chars < clean.min_answer_chars:
        message = (
            f"no answer has at least {clean.min_answer_chars} and at most "
            f"{clean.max_answer_chars} characters"
        )
        hint = "raise it, or lower min_answer_chars"
        yield Finding("E253", "/data/clean/max_answer_chars", message, hint)


@check("data", "train")
def the_trainer_sees_what_was_cleaned(recipe: Recipe) -> Iterator[Finding]:
    """LLaMA Factory's own template reads the files again, where nothing can clean them."""
    if recipe.data.cleaning and recipe.train.template != "shared":
        message = "a template of LLaMA Factory's own reads the rows as they are: none is cleaned"
        hint = "set train.template: shared, or clean the files themselves"
        yield Finding("E253", "/data/clean", message, hint, "key")


@check("data", "evaluate")
def cleaning_does_something(recipe: Recipe) -> Iterator[Finding]:
    """A section without a step, and a step without anything to look for."""
    clean = recipe.data.clean
    if clean is None:
        return
    if not recipe.data.cleaning:
        yield Finding("W257", "/data/clean", "clean names no step", "name one, or remove it", "key")
    measured = clean.decontaminate
    if measured is None or measured.files:
        return
    evaluate = recipe.evaluate
    asked = evaluate is not None and (evaluate.questions or evaluate.harness) is not None
    if not (measured.validation and recipe.data.validation.holds_out) and not (
        measured.questions and asked
    ):
        message = "decontaminate has nothing to look for: no held-out rows, no questions, no files"
        hint = "name files, hold out rows, or remove it"
        yield Finding("W257", "/data/clean/decontaminate", message, hint, "key")
