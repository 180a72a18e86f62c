"""Lists small programming tasks with right implementations, faults to put into them, and examples.

`make_programs.py` derives labelled programs from this table; `tests/codejudge` runs every one of them on the examples.
A body is the text of a function `f` with the parameters of the family. Names of parameters and local variables are
among `POOLS`, from which other names are drawn.
"""

from program_families.dicts import DICTS
from program_families.divisibility import DIVISIBILITY
from program_families.family import POOLS, SEVERITY, Family
from program_families.list_changes import LIST_CHANGES
from program_families.list_measures import LIST_MEASURES
from program_families.matrices import MATRICES
from program_families.numbers import NUMBERS
from program_families.string_changes import STRING_CHANGES
from program_families.string_measures import STRING_MEASURES
from program_families.words import WORDS

FAMILIES = [*NUMBERS, *DIVISIBILITY, *STRING_MEASURES, *STRING_CHANGES, *WORDS, *LIST_CHANGES, *LIST_MEASURES,
            *MATRICES, *DICTS]

__all__ = ["FAMILIES", "POOLS", "SEVERITY", "Family"]
