"""Graph rewrites, one a file; ``pipeline`` orders, times and verifies them."""
