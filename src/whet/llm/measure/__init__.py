"""How fast and how good a language model is, beside others and without its parts."""
