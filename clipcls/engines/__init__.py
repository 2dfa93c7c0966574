"""What runs a plan other than the process that made it: one module an engine, imported when it is asked for."""
