"""Rules about what the model was made for, and what cannot be said without its facts."""

from __future__ import annotations

from collections.abc import Iterator

from runner.recipe.base_recipe import innermost
from runner.recipe.finding import Finding, listed
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts
from runner.recipe.suggest import nearest
from runner.report.printable import quoted


def check_context(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A row that is longer than the context has positions that the model has never seen."""
    context = facts.context if facts else None
    if facts is None or context is None or recipe.data.max_length <= context:
        return
    length = recipe.data.max_length
    message = f"data.max_length is {length}, and the model has a context of {context} tokens"
    hint = f"write {context} or less (by {facts.where})"
    yield Finding("E243", "/data/max_length", message, hint)


def check_targets(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """A name that no layer has: the training would find it out when the model is loaded."""
    from runner.plan.shapes import Kind, UnknownShapesError, shapes_of

    adapter = recipe.train.adapter
    if facts is None or isinstance(adapter.target_modules, str):
        return
    try:
        weights = shapes_of(facts.config).weights
    except UnknownShapesError:
        return  # the training looks at the model itself
    modules = [each.module for each in weights]
    fit = (each.module for each in weights if each.kind in (Kind.LINEAR, Kind.EMBEDDING))
    ends = sorted({module.rpartition(".")[2] for module in fit})
    for index, name in enumerate(adapter.target_modules):
        if any(module == name or module.endswith(f".{name}") for module in modules):
            continue
        close = nearest(name.rpartition(".")[2], ends)
        message = f"the model has no layer {quoted(name, 60)}"
        hint = f"did you mean {close}?" if close else f"it has {listed(ends)}"
        yield Finding("E244", f"/train/adapter/target_modules/{index}", message, hint)


def check_learning_layers(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """More layers than there are, or a module that no layer has."""
    from runner.plan.shapes import UnknownShapesError, in_layer, shapes_of

    adapter = recipe.train.adapter
    if facts is None or adapter.trainable_layers is None:
        return
    try:
        shapes = shapes_of(facts.config)
    except UnknownShapesError:
        return
    if abs(adapter.trainable_layers) > shapes.layers:
        message = f"trainable_layers is {adapter.trainable_layers}, and the model has "
        message += f"{shapes.layers} layers"
        hint = f"write at most {shapes.layers}, or remove it: every weight learns then"
        yield Finding("E251", "/train/adapter/trainable_layers", message, hint)
    known = sorted({place[1] for each in shapes.weights if (place := in_layer(each.module))})
    for index, name in enumerate(adapter.trainable_modules):
        if name not in known:
            close = nearest(name, known)
            message = f"no layer of the model has a module named {quoted(name, 60)}"
            hint = f"did you mean {close}?" if close else f"a layer has {listed(known)}"
            yield Finding("E251", f"/train/adapter/trainable_modules/{index}", message, hint)


def check_template_of_base(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """Who trained on one template answers in it: another one is for the most part a slip."""
    from runner.stages.prepare import template_file

    base, given = recipe.base, recipe.data.chat_template
    if base is None or given == "model" or facts is None or facts.chat_template is None:
        return
    if "pretrain" in (base.train.method, recipe.train.method):
        return  # no template plays a part in one of them
    if template_file(recipe).read_text(encoding="utf-8") != facts.chat_template:
        message = f"the recipe {base.name} trained with another chat template than {quoted(given)}"
        hint = "remove chat_template: the one that it trained with goes on"
        yield Finding("W259", "/data/chat_template", message, hint)


def not_checked(recipe: Recipe, facts: Facts | None) -> str:
    """What could not be checked for want of the model's facts; "" when all was."""
    if facts is not None or innermost(recipe).model.path is not None:
        return ""
    lock = f"recipe lock {recipe.source.path}"
    return f"not checked: max_length, chat template and widths against the model: run `{lock}`"
