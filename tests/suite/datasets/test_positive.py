"""Which of two classes is the disease."""

import numpy as np
import pytest

from suite.base.errors import InputError
from suite.datasets.positive import disease_last

Y = np.array([0, 0, 1])


@pytest.mark.parametrize(("healthy", "diseased"), [
    ("notckd", "ckd"), ("no", "yes"), ("normal", "pneumonia"), ("healthy", "melanoma"), ("negative", "positive"),
    ("benign", "malignant"), ("control", "AD"), ("absent", "present"), ("0", "1"), ("non-case", "case"),
    ("No finding", "Finding"), ("no_disease", "Disease"), ("N", "P"), ("False", "True"),
    ("without stenosis", "stenosis"), ("other", "malignant"),
    ("well", "sick"), ("non-malignant", "malignant"), ("disease-free", "relapse"), ("normal, benign", "cancer"),
    ("HER2 negative", "HER2 positive"), ("hiv-negative", "hiv-positive"), ("normal", "not normal"),
    ("healthy control", "AD"), ("benign tumor", "malignant tumor"), ("no finding", "pneumonia"), ("not_ckd", "ckd"),
    ("tumor-free", "tumor"), ("tumor absent", "tumor present"), ("no small cell", "small cell"),
])
def test_usual_names_are_recognized_in_either_order(healthy, diseased):
    for classes, y in (((healthy, diseased), Y), ((diseased, healthy), 1 - Y)):
        found = disease_last(y, classes, None)
        assert found.classes == (healthy, diseased)
        np.testing.assert_array_equal(found.y, Y)
        assert f"“{diseased}” is the disease and “{healthy}” is not (recognized" in found.how


@pytest.mark.parametrize("classes", [("type 1", "type 2"), ("alpha", "beta"), ("1", "2"), ("B", "M"),
                                     ("clear cell", "papillary"), ("norovirus", "influenza"), ("normal", "benign"),
                                     ("sick", "ill"), ("stage 0", "stage 1"),
                                     ("melanoma", "cancer"), ("norovirus", "infected"),
                                     ("case control", "cohort"),
                                     # names of two diseases, or of none, with a word of the healthy in one
                                     ("non-small cell", "small cell"), ("nonsmall cell", "small cell"),
                                     ("non-Hodgkin lymphoma", "Hodgkin lymphoma"), ("non-Hodgkin", "Hodgkin lymphoma"),
                                     ("non-STEMI", "STEMI"), ("non-diabetic", "diabetic"),
                                     ("nondemented", "demented"), ("clear", "papillary"), ("well", "poorly"),
                                     ("normal tension glaucoma", "open-angle glaucoma"),
                                     ("triple-negative", "luminal"), ("triple negative", "triple positive"),
                                     ("gram-negative", "gram-positive"), ("insulin control", "metformin"),
                                     ("no small cell", "adenocarcinoma"), ("benign nevus", "melanoma"),
                                     ("HER2 negative", "ER positive"), ("_", "-_")])
def test_other_names_are_asked_about(classes):
    with pytest.raises(InputError, match=r"neither name says which is the disease; give --positive") as error:
        disease_last(Y, classes, None, " of 'dx'")
    assert all(name in str(error.value) for name in (*classes, "of 'dx'")) and "\n" not in str(error.value)


def test_what_is_said_counts_and_more_classes_have_no_disease():
    found = disease_last(Y, ("no", "yes"), "no")
    assert found.classes == ("yes", "no") and found.y.tolist() == [1, 1, 0] and "(--positive)" in found.how
    assert disease_last(Y, ("normal", "a", "b"), None) == (Y, ("normal", "a", "b"), "")
    with pytest.raises(InputError, match="'ill' is not one of two classes"):
        disease_last(Y, ("no", "yes"), "ill")
