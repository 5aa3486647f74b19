"""Checkpoints as they are stored: folders, GGUF files, quantised ones, tokenizers and templates."""
