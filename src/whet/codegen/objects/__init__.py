"""Text to object code to an image: targets, compiler processes, cache, linker."""
