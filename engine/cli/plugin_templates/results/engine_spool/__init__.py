"""A result backend for ``spool://`` URLs. The hook and the class are in `engine_spool.results`."""
