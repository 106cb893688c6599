"""One file for each `krona` command: typed options in, a printed result out."""
