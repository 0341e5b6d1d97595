"""While tests run, the shapes and types in the signatures of models and training are checked."""

from jaxtyping import install_import_hook

install_import_hook(["vadtune.models", "vadtune.training"], "beartype.beartype")
