"""A transport for ``spool://`` URLs. The hook and the classes are in `engine_spool.transport`."""
