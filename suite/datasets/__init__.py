"""Reading data: the download cache, CSV files, splits, subgroups, the positive class."""
