"""Pairs of domains in Office-31's layout."""

from data.domains.module import DomainPair

__all__ = ["DomainPair"]
