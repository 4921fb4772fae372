"""Rules of what learns: the layers that get an adapter, or the weights that are trained. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runner.recipe.checks.registry import check
from runner.recipe.finding import Finding
from runner.recipe.model import Recipe
from runner.recipe.source import escape_token
from runner.recipe.suggest import nearest
from runner.report.printable import quoted

_WORDS = ("all-linear", "all-attention")  # for `target_modules`, beside regular expressions
_WHOLE_NAMES = ("lm_head", "embed_out")  # of modules that lie in no other


@check("train")
def words_for_layers_are_no_modules(recipe: Recipe) -> Iterator[Finding]:
    """In a list, `all-linear` would be looked for as a module of that name."""
    targets = recipe.train.adapter.target_modules
    for word in _WORDS:
        if not isinstance(targets, str) and word in targets:
            pointer = f"/train/adapter/target_modules/{targets.index(word)}"
            message = f"{word} is not a module name; it stands for all of them, without a list"
            yield Finding("E214", pointer, message, f"write target_modules: {word}")


@check("train")
def a_module_name_stands_in_a_list(recipe: Recipe) -> Iterator[Finding]:
    """A text is a regular expression for whole names, which have dots: `q_proj` matches none."""
    adapter = recipe.train.adapter
    for key, words in (("target_modules", _WORDS), ("exclude_modules", ())):
        text = getattr(adapter, key)
        if not isinstance(text, str) or text in (*words, *_WHOLE_NAMES):
            continue
        if re.fullmatch(r"[\w-]+", text):
            message = f"{quoted(text, 60)} can match no module: whole names have dots"
            meant = nearest(text, words)
            hint = f"did you mean {meant}?" if meant else f"for a module's name, write [{text}]"
            yield Finding("E220", f"/train/adapter/{key}", message, hint)


# Names of modules are ASCII. With a wide range of characters, such as [!-\U0010ffff], and a flag
# that ignores case, reading an expression takes a third of a second for every few letters of it.
_LONGEST_EXPRESSION = 1000
_WIDE = re.compile(r"[^\x20-\x7e]|\\[uUN]")


@check("train")
def regular_expressions_can_be_read(recipe: Recipe) -> Iterator[Finding]:
    """Otherwise PEFT would fail after the model is loaded."""
    adapter = recipe.train.adapter
    places = [
        (f"/train/adapter/{key}", getattr(adapter, key))
        for key in ("target_modules", "exclude_modules")
        if isinstance(getattr(adapter, key), str)
    ]
    for key in ("rank_pattern", "alpha_pattern"):
        base = f"/train/adapter/{key}"
        places += [(f"{base}/{escape_token(each)}", each) for each in getattr(adapter, key)]
    for pointer, text in places:
        place = "key" if "_pattern/" in pointer else "value"
        if len(text) > _LONGEST_EXPRESSION or _WIDE.search(text):
            message = f"{quoted(text, 60)} is no regular expression for names of modules"
            hint = (
                f"write at most {_LONGEST_EXPRESSION} characters of ASCII, without \\u, \\U and \\N"
            )
            yield Finding("E180", pointer, message, hint, place)
            continue
        if problem := _expression_problem(text):
            message = f"{quoted(text, 60)} is no regular expression: {problem}"
            yield Finding(
                "E221", pointer, message, "put a \\ before a sign that means itself", place
            )


def _expression_problem(text: str) -> str:
    """Why `text` is no regular expression; "" when it is one."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later Python may read otherwise
            re.compile(text)
    except (re.error, OverflowError) as error:
        return str(error)
    except RecursionError:
        return "it is nested too deep"
    return ""


@check("train")
def no_module_is_wanted_in_two_ways(recipe: Recipe) -> Iterator[Finding]:
    """PEFT would leave it out of the adapter without a word."""
    adapter = recipe.train.adapter
    if isinstance(adapter.target_modules, str):
        return
    for key, what in (("exclude_modules", "excluded"), ("modules_to_save", "trained as a whole")):
        names = getattr(adapter, key)
        for index, name in enumerate(() if isinstance(names, str) else names):
            if name in adapter.target_modules:
                message = f"{quoted(name, 60)} gets an adapter, and is {what}"
                pointer = f"/train/adapter/{key}/{index}"
                yield Finding("E222", pointer, message, "name it once")


@check("train")
def dora_has_no_bias(recipe: Recipe) -> Iterator[Finding]:
    """PEFT refuses the two together."""
    if recipe.train.adapter.use_dora and recipe.train.adapter.lora_bias:
        message = "use_dora and lora_bias exclude each other"
        yield Finding("E223", "/train/adapter/lora_bias", message, "remove one of them")


@check("train")
def learning_modules_lie_in_layers(recipe: Recipe) -> Iterator[Finding]:
    """Modules are chosen in the layers that learn; without these every weight would."""
    adapter = recipe.train.adapter
    if adapter.trainable_layers == 0:
        hint = "write 2 for the last two layers, -2 for the first; every weight learns without it"
        pointer = "/train/adapter/trainable_layers"
        yield Finding("E250", pointer, "trainable_layers is 0: no weight would learn", hint)
    if adapter.trainable_modules and adapter.trainable_layers is None:
        message = "trainable_modules chooses in the layers of trainable_layers, and there is none"
        hint = "add trainable_layers, such as 2 for the last two layers"
        yield Finding("E250", "/train/adapter/trainable_modules", message, hint, "key")


@check("model", "train")
def four_bits_are_not_trained(recipe: Recipe) -> Iterator[Finding]:
    """A step of training is far smaller than one from a 4-bit value to the next."""
    if recipe.model.quantization and recipe.train.adapter.type == "none":
        message = "train.adapter.type none trains every weight, and 4-bit weights cannot be trained"
        hint = "remove quantization, or train an adapter on it: type: lora"
        yield Finding("E240", "/model/quantization", message, hint, "key")


@check("name", "description", "model", "train")
def qlora_has_four_bits(recipe: Recipe) -> Iterator[Finding]:
    """Called QLoRA, and the base is held in 16 or 32 bits: four to eight times the memory."""
    said = f"{recipe.name} {recipe.description}"
    called = re.search(r"(?i)(?<![a-z])q-?lora(?![a-z])", said) is not None
    if called and recipe.train.adapter.type == "lora" and not recipe.model.quantization:
        message = "the recipe calls itself QLoRA, and model has no quantization: this is LoRA"
        hint = "add quantization: {load_in_4bit: true} to model, or call it LoRA"
        yield Finding("W217", "/model", message, hint, "key")


@check("train")
def rank_and_scale_are_usual(recipe: Recipe) -> Iterator[Finding]:
    """LoRA (Hu et al., 2021) uses r 1 to 64; what is common today ends at 256, alpha at 2 r."""
    adapter = recipe.train.adapter
    if adapter.type != "lora":
        return
    if adapter.r > 512:
        message = f"train.adapter.r {adapter.r} is far from what is usual for LoRA"
        yield Finding(
            "W203",
            "/train/adapter/r",
            message,
            "usual is 4 to 256 (LoRA's own paper, Hu et al. 2021: 1 to 64)",
        )
    scale = adapter.lora_alpha / (adapter.r**0.5 if adapter.use_rslora else adapter.r)
    if not 1 / 8 <= scale <= 8:
        below = "sqrt(r)" if adapter.use_rslora else "r"
        message = (
            f"the adapter is scaled by lora_alpha / {below} = {scale:g}, which is far from usual"
        )
        usual = "usual is 8 to 32, whatever r" if adapter.use_rslora else "usual is r or 2 r"
        yield Finding("W203", "/train/adapter/lora_alpha", message, usual)
