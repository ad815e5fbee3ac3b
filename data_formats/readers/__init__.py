"""From a source to records that know their place: one reader for each type of file, in plain Python."""
