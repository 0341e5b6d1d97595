"""Find the best imputation model for data with missing values."""

__version__ = "0.1.0"
