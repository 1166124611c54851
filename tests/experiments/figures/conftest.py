"""What the tests of figures share."""

from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import pytest

from experiments.figures.common.base import Result
from fdiv.types import UsageError


@pytest.fixture(autouse=True)
def _no_open_pictures():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def made():
    """A function that makes a figure at some flags and asserts that all of its own checks hold."""

    def make(figure: ModuleType, **flags) -> Result:
        result = figure.make(figure.Flags(**flags))
        assert result.checks
        assert not [check for check in result.checks if not check.holds]
        return result

    return make


@pytest.fixture(scope="session")
def refused():
    """A function that asserts that a figure refuses flags, by the field at fault or by what the
    message says."""

    def check(figure: ModuleType, flags: dict[str, Any], field: str = "", says: str = "") -> None:
        with pytest.raises(UsageError, match=says or None) as error:
            figure.make(figure.Flags(**flags))
        assert not field or error.value.field == field

    return check
