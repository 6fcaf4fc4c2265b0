"""The sources of data: each a module named as in `data.source`, with a function `load(config: DataConfig) -> Source`."""
