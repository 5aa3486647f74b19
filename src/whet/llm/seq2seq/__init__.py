"""Encoder–decoders: translation, summaries, and what is said in sound."""
