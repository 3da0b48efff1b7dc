"""The version of the package: also what configurations that are saved hold."""

__version__ = "0.1.0"
