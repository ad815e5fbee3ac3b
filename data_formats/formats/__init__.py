"""One module for each format: what its rows look like, and what becomes of them. `registry` knows them all."""
