"""A mean that is right for any number of values."""

from __future__ import annotations


def mean(values):
    """The mean of a float32 Var, as a differentiable float32 Var (1,).

    Jittor's own adds in one float32: the mean of 2^25 equal numbers comes out as half or less of
    them, and that of the squares of 4096^2 normal numbers 3 % low. In float64 it is as quick.
    """
    return values.float64().mean().float32()
