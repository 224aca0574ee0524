"""browser."""

__all__ = []
