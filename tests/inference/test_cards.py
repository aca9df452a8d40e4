"""What a card says is used, what the user says goes before it, and a card of another version is one line."""

import pytest

from eqmambair import UserError
from eqmambair.inference.classification import preprocessing_of
from eqmambair.inference.segmentation import protocol_of


def test_the_user_goes_before_the_card_and_the_card_before_the_default():
    card = {"protocol": {"mode": "slide", "stride": (100, 100)}, "preprocessing": {"size": 96}}
    protocol = protocol_of(card, stride=(50, 60), window=None)
    assert (protocol.mode, protocol.stride, protocol.window) == ("slide", (50, 60), (512, 512))
    assert (protocol_of({}).mode, preprocessing_of(card).size, preprocessing_of(card, size=64).size) == ("whole", 96, 64)


@pytest.mark.parametrize(("make", "key"), [(protocol_of, "protocol"), (preprocessing_of, "preprocessing")])
def test_a_card_of_another_version_is_one_line(make, key):
    with pytest.raises(UserError, match=r"the weights' card does not fit this version .*'colour'"):
        make({key: {"colour": 3}})
