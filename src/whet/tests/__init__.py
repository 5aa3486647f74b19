"""Tests of Whet; they live in the source checkout and are left out of the wheel."""
