"""Chat templates by the names that other tools have for them."""

from __future__ import annotations

from runner.capture.captured import Fate
from runner.imports.sheet import Sheet

# A shipped template -> axolotl's and Unsloth's names for one of the same marks.
_NAMES = {
    "chatml": "chatml qwen_25 qwen25 qwen2.5 qwen-2.5",
    "command-r": "cohere command_a",
    "deepseek": "deepseek_v2 deepseek_v3",
    "gemma": "gemma gemma2 gemma3 gemma-3",
    "llama2": "llama2 llama",
    "llama3": "llama3 llama-3",
    "llama3.1": "llama31 llama-31 llama-3.1 llama-3.2 llama-3.3",
    "mistral": "mistral inst mistral_v2v3",
    "phi3": "phi3 phi_3 phi_35 phi-3 phi-3.5 phi-35",
    "phi4": "phi4 phi_4 phi-4",
    "qwen3": "qwen3 qwen-3 qwen3-instruct",
    "zephyr": "zephyr",
}
SHIPPED = {theirs: ours for ours, names in _NAMES.items() for theirs in names.split()}


def put_template(sheet: Sheet, name: str, source: str, tool: str) -> bool:
    """Write the template that `tool` calls `name` into data.chat_template; False: none is shipped.

    `source`: the setting or call that names it.
    """
    ours = SHIPPED.get(name)
    if ours is None:
        return False
    sheet.put("data.chat_template", ours, source)
    why = f"the shipped template of these marks; {tool}'s own may differ in blanks or system turn"
    sheet.note(Fate.CLOSE, source, becomes=f"data.chat_template: {ours}", why=why, value=name)
    return True
