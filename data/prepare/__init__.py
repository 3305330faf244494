"""``python -m data.prepare``: download, check and unpack, or make, a data set."""
