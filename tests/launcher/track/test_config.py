import pytest
from pydantic import ValidationError

from launcher.track.config import MLflowConfig


def test_a_recipe_holds_no_credentials() -> None:
    with pytest.raises(ValidationError, match=r"https://\*\*\*@site contains credentials"):
        MLflowConfig(tracking_uri="https://me:secret@site")
    assert MLflowConfig(tracking_uri="https://site").tracking_uri == "https://site"
