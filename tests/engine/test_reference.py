"""The page of all keys says what the schema says."""

from eqmambair.engine.reference import reference
from tests.conftest import ROOT


def test_page_of_options_is_up_to_date() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    ours = "`TinySR`", "`SometimesNaN`, ", "`signals_once`, ", ", `signals_once`"
    written = reference()
    for name in ours:  # registered by tests in the same process
        written = written.replace(name, "")
    assert text == written, "python -m eqmambair.engine.reference > docs/options.md"
