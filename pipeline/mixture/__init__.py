"""Which documents make a dataset: of which corpora, how much of each, and in which split."""
