"""Requests to tokens: which run next, on which pages, and which token is chosen."""
