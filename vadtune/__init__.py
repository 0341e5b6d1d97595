"""Find the best imputation model for data with missing values."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vadtune.imputer import SearchImputer, VADImputer, VAEImputer

__all__ = ["SearchImputer", "VADImputer", "VAEImputer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The estimators, imported when they are asked for: they need torch, which takes seconds."""
    if name in __all__:
        from vadtune import imputer

        return getattr(imputer, name)
    raise AttributeError(f"module 'vadtune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
