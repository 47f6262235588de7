"""The observer ``spool``. Its hooks are in `engine_spool.observer`."""
