"""The command line of CCA-Attention: people and files."""

__version__ = "0.1.0"
