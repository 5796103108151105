"""Servers that speak OpenAI's chat completions: OpenAI's own, vLLM, llama.cpp, Ollama, others."""

from .completer import Completer

__all__ = ["Completer"]
