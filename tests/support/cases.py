"""Which cases of a parametrised test the profile `quick` runs."""

from __future__ import annotations


def spread(cases, most):
    """At most `most` of the cases, in order: the first, the last, and others at equal distances between them.

    The answer depends on the number of cases alone, so every worker makes the same choice.
    """
    if len(cases) <= most:
        return list(cases)
    if most == 1:
        return list(cases[:1])
    return [cases[number * (len(cases) - 1) // (most - 1)] for number in range(most)]
