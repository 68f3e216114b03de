"""Labels tell why an axis stays, also where what was frozen is what it was split into, or joined with."""

import numpy as np

from kdsearch.builtin.channels.axes import Labels


def test_an_axis_stays_for_what_holds_its_parts():
    labels = Labels()
    whole = labels.fresh(6)
    assert labels.reason(whole) == ""
    heads, places = labels.split(whole, (2, 3), "where")
    assert labels.reason(whole) == ""
    labels.freeze(places, "a mean is taken")
    assert labels.reason(whole) == "a mean is taken"
    assert labels.resolved(whole).columns, "heads still go"
    labels.freeze(heads, "they are counted")
    assert not labels.resolved(whole).columns
    assert labels.reason(whole) in ("a mean is taken", "they are counted")


def test_an_axis_stays_for_what_holds_those_that_it_is_joined_with():
    labels = Labels()
    one, other = labels.fresh(4), labels.fresh(4)
    labels.join(one, other, "where")
    labels.freeze(other, "they are outputs")
    assert labels.reason(one) == labels.reason(other) == "they are outputs"
    later = labels.fresh(4)
    labels.join(later, one, "they meet what stays")
    assert labels.reason(later) == "they meet what stays"
    assert not np.any(labels.resolved(later).columns)
