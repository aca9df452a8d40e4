"""What the card of a weight file says of how its network is used."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eqmambair.errors import UserError

Made = TypeVar("Made")


def from_card(kind: Callable[..., Made], card: Mapping[str, Any], key: str, changes: Mapping[str, Any]) -> Made:
    """What ``kind`` makes of the values under a key of a card, with those of ``changes`` that are not None instead.

    Raises:
        UserError: the card has values that ``kind`` does not take.
    """
    given = {**card.get(key, {}), **{name: value for name, value in changes.items() if value is not None}}
    try:
        return kind(**given)
    except TypeError as error:
        raise UserError(f"the weights' card does not fit this version ({error})") from error
