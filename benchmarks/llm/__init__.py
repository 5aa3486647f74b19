"""Measurements of language models against llama.cpp."""
