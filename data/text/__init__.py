"""IMDb and SST-2."""

from data.text.module import IMDbToSST2

__all__ = ["IMDbToSST2"]
