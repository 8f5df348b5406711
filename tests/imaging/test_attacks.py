"""What all image attacks have in common."""

import pytest

from suite import registry
from suite.errors import NotApplicable
from tests.suite._models import patients

ALL = registry.names("attacks")
IMAGING = [name for name in ALL if registry.load("attacks", name).__module__.startswith("imaging")]


@pytest.mark.parametrize("name", IMAGING)
def test_refuses_a_table_before_asking_anything(name):
    classifier, x, y = patients()
    with pytest.raises(NotApplicable, match="is for images, and the inputs of this model are tables"):
        registry.load("attacks", name)()(classifier, x, y)
    assert classifier.queries == 0
