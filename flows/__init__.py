"""The night in order: Prefect flows, settings and the command line. No arithmetic, no SQL."""
