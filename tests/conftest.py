"""While tests run, the shapes and types in the signatures of models and training are checked."""

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

from tests.zygote import Zygote

install_import_hook(["vadtune.models", "vadtune.training"], "beartype.beartype")


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """What commands are forked from."""
    with Zygote() as zygote:
        yield zygote
