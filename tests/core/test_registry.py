"""Names of parts, and their options as text."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.core.errors import UserError
from hasten.core.solver import solvers


def test_numbers_of_numpy_are_written_as_pythons():
    part = solvers.make("ddim", {"eta": np.float64(0.5)})
    assert solvers.text(part) == "ddim(eta=0.5)"
    assert solvers.canonical(solvers.text(part)) == "ddim(eta=0.5)"


@pytest.mark.parametrize(
    "text", ["ddim(**{'eta': 1.0})", "ddim(eta=1.0)(eta=0.5)", "ddim(0.5)", "ddim(eta=1.0"]
)
def test_options_that_are_not_option_equals_value_are_refused(text):
    with pytest.raises(UserError, match="write it as 'ddim"):
        solvers.parse(text)
