"""How GGUF architectures map to Hugging Face: one module a family, one line a name."""

from __future__ import annotations

from runner.scripts.from_gguf.architectures import gemma, llama, phi, qwen
from runner.scripts.from_gguf.architectures.base import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "llama": llama.LLAMA,  # and Mistral
    "qwen2": qwen.QWEN2,
    "qwen3": qwen.QWEN3,
    "gemma2": gemma.GEMMA2,
    "gemma3": gemma.GEMMA3,
    "phi3": phi.PHI3,  # and Phi-4
}
