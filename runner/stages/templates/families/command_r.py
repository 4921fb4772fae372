"""Command-R: turn tokens around role tokens, trimmed content but for the system prompt."""

from runner.stages.templates.families.layout import Family, Layout, System, Turn

_START, _END = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"


def _turn(role: str, *, trim: bool) -> Turn:
    return Turn(f"{_START}<|{role}_TOKEN|>", _END, trim)


FAMILY = Family(
    "command-r",
    tuple(
        Layout(
            _turn("USER", trim=trim),
            _turn("CHATBOT", trim=trim),
            f"{_START}<|CHATBOT_TOKEN|>",
            System("front", _turn("SYSTEM", trim=False)),
        )
        for trim in (True, False)
    ),
    stop=(_START, _END),
)
