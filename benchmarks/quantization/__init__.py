"""Accuracy of quantised networks that were really trained."""
