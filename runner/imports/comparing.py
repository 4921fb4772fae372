"""What trainers that compare answers have in common, and where their losses leave a recipe's."""

from __future__ import annotations

from collections.abc import Mapping

from runner.capture.captured import Fate
from runner.imports.sheet import Field, Sheet

_DROPOUT = "lora_dropout"
_OFF = "dropout is switched off where answers are compared"


def fill_adapter(sheet: Sheet, fields: Mapping[str, Field], compared: str) -> None:
    """The adapter's settings; with `compared`, without dropout, as the trainers have it."""
    if not compared or _DROPOUT not in fields:
        sheet.fill(fields)
        return
    sheet.fill({name: each for name, each in fields.items() if name != _DROPOUT})
    sheet.put(fields[_DROPOUT].target, 0.0, _DROPOUT, _OFF)
    becomes = f"{fields[_DROPOUT].target}: 0.0"
    if sheet.value(_DROPOUT, fields[_DROPOUT].default) and not sheet.value("disable_dropout", True):
        why = "a recipe compares answers without dropout"
        sheet.note(Fate.LOST, _DROPOUT, becomes=becomes, why=why)
    elif sheet.has(_DROPOUT):
        sheet.note(Fate.NO_EFFECT, _DROPOUT, becomes=becomes, why=_OFF)
    elif fields[_DROPOUT].default:
        default = fields[_DROPOUT].default
        sheet.note(Fate.DEFAULT, _DROPOUT, becomes=becomes, why=_OFF, value=default)


def note_packing(sheet: Sheet, name: str, compared: str) -> None:
    """`data.packing`, by a setting that is off where it is not given."""
    packing = bool(sheet.value(name, False))
    sheet.put("data.packing", packing and not compared, name)
    if packing and compared:
        sheet.lost(name, "answers that are compared are not packed")
    elif packing:
        sheet.close(name, "other rows share a pack", "data.packing: true")
    elif name in sheet.given:
        sheet.mapped(name, "data.packing: false")


def note_loss(sheet: Sheet, method: str) -> None:
    """What a trainer's loss has beside the recipe's: nothing, or parts that are told."""
    if method == "kto" and sheet.has("loss_type"):
        if sheet.value("loss_type") == "kto":
            sheet.mapped("loss_type", "train.method: kto")
        else:
            sheet.lost("loss_type", "a recipe has KTO's own loss", "train.method: kto")
    if method == "simpo":
        if sheet.has("loss_type"):
            sheet.mapped("loss_type", "train.method: simpo")
        _likelihood(sheet)


def _likelihood(sheet: Sheet) -> None:
    """CPO's trainer adds the better answer's likelihood to SimPO, unless it is told not to."""
    if sheet.has("cpo_alpha") and sheet.value("cpo_alpha") in (0, "0", "0.0"):
        sheet.mapped("cpo_alpha", "train.method: simpo, and nothing beside it")
        return
    why = f"{sheet.tool} adds the likelihood of the better answer to SimPO, with weight cpo_alpha"
    why += ", which is 1.0 where the file is silent; a recipe does not"
    value = None if sheet.has("cpo_alpha") else 1.0
    sheet.note(Fate.LOST, "cpo_alpha", becomes="train.method: simpo", why=why, value=value)
